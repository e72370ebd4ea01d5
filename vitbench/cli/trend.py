"""`vitbench trend`: throughput over runs, and where it changed."""

from __future__ import annotations

import json as jsons
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitbench.cli import judge, terminal
from vitbench.errors import BadInput

if TYPE_CHECKING:
    from vitbench.analysis.trend import Past


def trend(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders or CSV files of records, oldest first.")
    ],
    min_change: Annotated[str, typer.Option(help="Smaller steps are not told: 2%.")] = "2%",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the chart; reports/DATE-trend by default.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON; draws nothing.")] = False,
) -> None:
    """Show each case's throughput over runs or commits, and name the commit where it changed."""
    from vitbench.analysis import trend as trends

    least = judge.share("--min-change", min_change)
    history = [_past(path) for path in runs]
    found = trends.series(history, least)
    if not found:
        raise BadInput("no case was measured by two of these runs on one kind of device")
    if json:
        told = [asdict(one) for one in found]
        labels = [{"name": past.name, "commit": past.commit} for past in history]
        typer.echo(jsons.dumps({"runs": labels, "series": told}, indent=2, ensure_ascii=False))
        return
    from vitbench.errors import StorageFull
    from vitbench.render import history as charts
    from vitbench.render import tables, units
    from vitbench.results.folder import make_folder, new_folder

    console = terminal.console()
    rows = [
        [
            one.describe,
            str(len(one.runs)),
            units.significant(one.values[0]),
            units.significant(one.values[-1]),
            str(len(one.steps) or ""),
        ]
        for one in found
    ]
    console.print(tables.listing(("case", "runs", "first images/s", "last", "steps"), rows))
    sentences = [trends.sentence(one, step, history) for one in found for step in one.steps]
    few = "fewer than 4 runs show no step" if max(len(o.runs) for o in found) < 4 else "no step"
    console.print("", *(sentences or [few]), sep="\n", markup=False)
    folder = make_folder(out or new_folder(Path("reports"), "trend", "runs"))
    try:
        path = charts.save(found, history, folder)
    except OSError as error:
        raise StorageFull(f"{folder} cannot be written: {error.strerror}") from error
    console.print(str(path), style="cyan")


def _past(path: Path) -> Past:
    from vitbench.analysis.trend import Past
    from vitbench.results.folder import read_environment

    code = read_environment(path).get("code") or {}
    return Past(path.name, judge.records(path), code.get("commit"), bool(code.get("dirty")))
