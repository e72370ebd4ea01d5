"""The report of runs: one page that works from disk, with nothing beside it, and a summary.

sources.py reads the runs, data.py packs them for the page, page.py writes it from report.html.j2,
report.css and report.js; summary.py is the same in short, for a pull request. The charts are
Vega-Lite's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vitbench.errors import BadInput, StorageFull, writing
from vitbench.render.report import page, sources, summary
from vitbench.render.report.contents import Contents
from vitbench.results.folder import REPORT, SUMMARY
from vitbench.results.replacing import replacing

# What files say that vitbench wrote, and so may replace, near their start.
_MARKS = ('<meta name="generator" content="vitbench', summary.MARK)
_START = 2000


def write(runs: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Writes the page of these runs, and the summary beside it; returns their paths.

    out  the page; by default `report.html` in the folder of the run, or beside its CSV file

    Raises BadInput, also where a file that vitbench did not write is in the way; StorageFull.
    """
    target = _default(runs) if out is None else out
    paths = [target, target.with_name(SUMMARY)]
    if target.suffix.lower() not in (".html", ".htm"):
        raise BadInput(f"a report is a file such as {REPORT}, got {str(target)!r}")
    for path in paths:
        _check_ours(path)
    read = sources.read(runs)
    told = Contents.of(read)
    texts = [page.html(read, told), summary.markdown(read, told)]
    with writing(target, StorageFull if out is None else BadInput):
        for path, text in zip(paths, texts, strict=True):
            with replacing(path) as file:
                file.write(text)
    return paths


def page_of(run: Path) -> Path:
    """Where the page of a run folder, or of a CSV file of records, goes by default."""
    return (run if os.path.isdir(run) else run.parent) / REPORT


def _default(runs: Sequence[Path]) -> Path:
    if len(runs) > 1:
        raise BadInput(f"--out says where the report of several runs goes, such as -o {REPORT}")
    return page_of(runs[0])


def _check_ours(path: Path) -> None:
    """Raises BadInput for a file that is no report or summary of ours: it is not replaced."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            start = file.read(_START)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None
    if start.strip() and not any(mark in start for mark in _MARKS):
        raise BadInput(f"{path} exists, and vitbench did not write it: choose another --out")
