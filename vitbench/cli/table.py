"""`vitbench table`: a run's table again, for the terminal or for a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitbench.cli import judge, terminal


def table(
    run: Annotated[Path, typer.Argument(help="A run folder, or a CSV file of records.")],
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Print the table of a run again."""
    from vitbench.render import tables

    records = judge.records(run)
    if markdown:
        typer.echo(tables.results_markdown(records))
    else:
        terminal.console().print(tables.results(records))
