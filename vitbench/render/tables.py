"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from vitbench.analysis.accuracy import published_top1
from vitbench.cases.axes import AXES
from vitbench.cases.row import SETTINGS
from vitbench.instruments import memory
from vitbench.render import labels, text, units
from vitbench.render.listing import listing, markdown, plan
from vitbench.results.outcome import COUNTED, MEASURED
from vitbench.results.record import Record, Value, subject_of

__all__ = [
    "MOST_ROWS",
    "SETTING_COLUMNS",
    "listing",
    "markdown",
    "notes",
    "peak",
    "plan",
    "results",
    "results_markdown",
]

SETTING_COLUMNS = (
    *((name, AXES[name].title) for name in SETTINGS),
    ("device", "device"),
)
# Rows that a terminal shows of a table unless it is asked for more.
MOST_ROWS = 100
_GRADE_COLOURS = {"A": "green", "B": "yellow", "C": "dark_orange", "D": "red"}


# Behind a peak that torch's allocator does not see, and what it says.
_MARK = " *"
_DAGGER = " †"
_TOP1 = "top-1 %, published"
_INEXACT = (
    "* with the runtime's own buffers, of the process's resident set or as the runtime tells: it "
    "does not compare with the exact peaks of torch's allocator"
)
_FIGURES = ("images/s", "±", "ms a call", "MACs", "params", "peak MiB", "trust")
_RIGHT = ("px", *_FIGURES[:-1], _TOP1)


def results(records: Sequence[Record]) -> Table:
    """One row per case; a setting is shown only where it varies."""
    header, rows = _results(records)
    return listing(header, rows, right=_RIGHT)


def identified(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """What tells each row from the others: the titles, and the cells of each row."""
    columns = {title: [_cell(r[name]) for r in records] for name, title in SETTING_COLUMNS}
    columns["settings"] = labels.own_settings(records)
    shown = {title: cells for title, cells in columns.items() if len(set(cells)) > 1}
    rows = [
        [subject_of(record), *own, labels.resolution(record)]
        for record, *own in zip(records, *shown.values(), strict=True)
    ]
    return ["subject", *shown, "px"], rows


def results_markdown(records: Sequence[Record]) -> str:
    """The same as GitHub's Markdown, figures to the right; below it what a marked peak is."""
    header, rows = _results(records)
    aligned = ["---:" if title in _RIGHT else "---" for title in header]
    cells = [[text.markdown(str(cell)) for cell in row] for row in rows]
    lines = [text.markdown(line) for line in _marks(records)]
    return "\n\n".join([markdown(header, cells, aligned), *lines])


def _results(records: Sequence[Record]) -> tuple[list[str], list[list[str | Text]]]:
    """The header and the cells of each case."""
    titles, names = identified(records)
    device_times = [_device_time(record) for record in records]
    if any(device_times):
        titles = [*titles[:-1], "device time", "px"]
        names = [[*n[:-1], t, n[-1]] for n, t in zip(names, device_times, strict=True)]
    rows = [[*own, *_figures(record)] for own, record in zip(names, records, strict=True)]
    accuracies = [_top1(record) for record in records]
    if not any(accuracies):
        return [*titles, *_FIGURES], rows
    rows = [[*row[:-1], top1, row[-1]] for row, top1 in zip(rows, accuracies, strict=True)]
    return [*titles, *_FIGURES[:-1], _TOP1, _FIGURES[-1]], rows


def _top1(record: Mapping[str, Any]) -> str:
    """Marked where something must be said with it, which `notes` says."""
    top1 = published_top1(record)
    return "" if top1 is None else f"{top1.percent:.1f}" + (_DAGGER if top1.remark else "")


def _device_time(record: Mapping[str, Any]) -> str:
    """`0.41 ms, launch-bound`; empty where the device's own time was not read apart."""
    seconds = record["device_latency_s"]
    if seconds is None:
        return ""
    bound = ", launch-bound" if record["launch_bound"] else ""
    return f"{units.significant(seconds * 1e3)} ms{bound}"


def _cell(value: Value) -> str:
    if value is None:  # a whole model has no stride
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _figures(record: Mapping[str, Any]) -> list[str | Text]:
    if record["status"] == COUNTED:
        return ["", "", "", *_counts(record), ""]
    if record["status"] != MEASURED:
        reason = f"{record['status']}: {record['message']}"
        return ["-", "", "", "", "", "", Text(reason, style="red", overflow="fold")]
    grade, noise = str(record["trust"] or ""), record["noise"]
    return [
        units.significant(record["throughput_img_s"]),
        "" if noise is None else f"{noise * 100:.1f}%",
        units.significant(record["latency_s"] * 1e3),
        *_counts(record),
        Text(grade, style=_GRADE_COLOURS.get(grade, "")),
    ]


def _counts(record: Mapping[str, Any]) -> list[str | Text]:
    """Empty where it could not be read."""
    macs, params = (
        "" if record[name] is None else units.si(record[name]) for name in ("macs", "params")
    )
    return [f"≥ {macs}" if record.get("macs_is_lower_bound") else macs, params, peak(record)]


def peak(record: Mapping[str, Any]) -> str:
    """Peak memory in MiB, marked where `notes` explains it; empty where it could not be read."""
    peak_bytes = record["peak_memory_bytes"]
    if peak_bytes is None:
        return ""
    return units.mebibytes(peak_bytes) + (_MARK if _is_inexact(record) else "")


def _is_inexact(record: Mapping[str, Any]) -> bool:
    return record["peak_memory_bytes"] is not None and record["memory_source"] in memory.INEXACT


def notes(records: Sequence[Record], most: int = 10) -> list[str]:
    """A line for each subject and note, and how many more there are; what a marked peak is."""
    lines = [f"{subject_of(record)}: {record['notes']}" for record in records if record["notes"]]
    lines = list(dict.fromkeys(lines))
    rest = len(lines) - most
    if rest > 0:
        lines = [*lines[:most], f"and {rest} more in the column `notes`"]
    return _marks(records) + lines


def _marks(records: Sequence[Record]) -> list[str]:
    """What marks behind figures say, a line each."""
    lines = [_INEXACT] if any(map(_is_inexact, records)) else []
    subjects: dict[str, dict[str, None]] = {}
    for record in records:
        if (top1 := published_top1(record)) is not None and top1.remark:
            subjects.setdefault(top1.remark, {})[subject_of(record)] = None
    return lines + [
        f"{_DAGGER.strip()} top-1 of {', '.join(names)}: {remark}"
        for remark, names in subjects.items()
    ]
