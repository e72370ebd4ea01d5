"""`vitbench insight`: what rows say beyond the rows themselves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from vitbench.cli import judge, options, parse, terminal
from vitbench.cli.options import AllRecords, Filters, grouped


@grouped
def insight(
    runs: AllRecords,
    memory: Annotated[
        str | None,
        typer.Option(help="Into which cases have to fit: 4GiB; by default the device's."),
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Most findings of a kind.")] = 5,
    json: options.AsJson = False,
    *,
    filters: Filters,
) -> None:
    """Say what runs show: fronts, crossovers, growth, what bounds a case, what changes."""
    from vitbench.analysis.insight import insights
    from vitbench.cases.row import select
    from vitbench.render.insights import paragraphs
    from vitbench.results.folder import read_environment_file

    rows = select([row for run in runs for row in judge.records(run)], filters)
    # Ceilings are of one machine; of several runs nobody could tell whose they are.
    environment = read_environment_file(runs[0]) if len(runs) == 1 else {}
    amount = None if memory is None else parse.amount_of_memory(memory)
    found = paragraphs(insights(rows, environment, amount), most)
    if json:
        terminal.echo_json([asdict(paragraph) for paragraph in found])
        return
    console = terminal.console()
    for paragraph in found:
        console.print(f"{paragraph.title}:", style="bold")
        for sentence in paragraph.sentences:
            console.print(f"- {sentence}", soft_wrap=True)
        if paragraph.more:
            console.print(f"  and {paragraph.more} more: --most, or options that choose rows")
    if not found:
        console.print("nothing is told by these rows: too few, alike within noise, or not trusted")
