"""`vitbench trend`: throughput over runs, and where it changed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitbench.cli import judge, parse, terminal
from vitbench.errors import BadInput, writing

if TYPE_CHECKING:
    from vitbench.analysis.trend import RunSnapshot


def trend(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders or CSV files of records, oldest first.")
    ],
    min_change: Annotated[str, typer.Option(help="Smaller steps are not reported: 2%.")] = "2%",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the chart; reports/DATE-trend by default.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON; draws nothing.")] = False,
) -> None:
    """Show each case's throughput over runs or commits, and name the commit where it changed."""
    from vitbench.analysis import trend as trends

    least = parse.share("--min-change", min_change)
    history = [_snapshot(path) for path in runs]
    series = trends.series(history, least)
    if not series:
        raise BadInput("no case was measured by two of these runs on one kind of device")
    if json:
        runs_as_json = [{"name": run.name, "commit": run.commit} for run in history]
        report = {"runs": runs_as_json, "series": [asdict(case) for case in series]}
        terminal.echo_json(report)
        return
    from vitbench.render import history as charts
    from vitbench.render import tables, units
    from vitbench.results.folder import make_folder, new_folder

    console = terminal.console()
    rows = []
    for case in series:
        ends = [units.significant(value) for value in (case.values[0], case.values[-1])]
        rows.append([case.describe, str(len(case.runs)), *ends, str(len(case.steps) or "")])
    console.print(tables.listing(("case", "runs", "first images/s", "last", "steps"), rows))
    sentences = [trends.sentence(case, step, history) for case in series for step in case.steps]
    is_short = max(len(case.runs) for case in series) < 4
    none = "fewer than 4 runs show no step" if is_short else "no step"
    console.print("", *(sentences or [none]), sep="\n")
    folder = make_folder(out or new_folder(Path("reports"), "trend", "runs"))
    with writing(folder):
        path = charts.save(series, history, folder)
    console.print(str(path), style="cyan", soft_wrap=True)


def _snapshot(path: Path) -> RunSnapshot:
    from vitbench.analysis.trend import RunSnapshot
    from vitbench.results.folder import read_environment

    code = read_environment(path).get("code") or {}
    return RunSnapshot(path.name, judge.records(path), code.get("commit"), bool(code.get("dirty")))
