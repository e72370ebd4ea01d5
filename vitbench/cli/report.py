"""`vitbench report`, `view`: the page of runs, and a browser to read it in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from vitbench.cli.options import AllRecords
from vitbench.errors import BadInput
from vitbench.results.folder import JOURNAL, RECORDS, REPORT

_REPORTS = Path("reports")


def report(
    runs: AllRecords,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help=f"The page; by default {REPORT} in the folder of the run. A summary in Markdown "
            "goes beside it.",
        ),
    ] = None,
) -> None:
    """Write the report of runs: a page for the browser, complete in one file."""
    from vitbench.render import report as reports

    for path in reports.write(runs, out):
        print(path)


def view(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run folder or a report; by default the newest in reports/."),
    ] = None,
) -> int:
    """Open a report in the browser; one that is missing is written first."""
    from vitbench.render import report as reports

    target = _newest() if run is None else run
    page = target if target.suffix == ".html" else reports.page_of(target)
    if not os.path.exists(page):
        reports.write([target], page)
    print(page)
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        typer.echo(f"vitbench: no browser was found to open {page} with", err=True)
        return 1
    return 0


def _newest() -> Path:
    """The run in reports/ that was written last. Raises BadInput."""
    files = [path for name in (RECORDS, JOURNAL) for path in _REPORTS.glob(f"*/{name}")]
    if not files:
        raise BadInput(f"{_REPORTS} holds no run: name one, or measure with `vitbench run`")
    return max(files, key=lambda path: path.stat().st_mtime).parent
