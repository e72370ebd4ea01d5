"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from vitbench.cases.axes import AXES
from vitbench.cases.row import SETTINGS
from vitbench.instruments import memory
from vitbench.render import labels, units
from vitbench.results.outcome import COUNTED, MEASURED
from vitbench.results.record import Record, Value, subject_of

SETTING_COLUMNS = (
    *((name, AXES[name].title) for name in SETTINGS),
    ("device", "device"),
)
_GRADE_COLOURS = {"A": "green", "B": "yellow", "C": "dark_orange", "D": "red"}


# Behind a peak that was read from the resident set, and what it says.
_MARK = " *"
_RESIDENT = (
    "* the process's resident set, which holds the runtime's own buffers too: it does not compare "
    "with the exact peaks of torch's allocator"
)
_FIGURES = ("px", "images/s", "±", "ms a call", "MACs", "params", "peak MiB", "trust")


def results(records: Sequence[Record]) -> Table:
    """One row per case; a setting is shown only where it varies."""
    header, rows = _results(records)
    return listing(header, rows, right=_FIGURES[:-1])


def results_markdown(records: Sequence[Record]) -> str:
    """The same as GitHub's Markdown, figures to the right; below it what a marked peak is."""
    header, rows = _results(records)
    aligned = ["---:" if title in _FIGURES[:-1] else "---" for title in header]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    text = markdown(header, cells, aligned)
    return f"{text}\n\n\\{_RESIDENT}" if any(map(_is_resident, records)) else text


def _results(records: Sequence[Record]) -> tuple[list[str], list[list[str | Text]]]:
    """The header and the cells of each case."""
    columns = {title: [_cell(r[name]) for r in records] for name, title in SETTING_COLUMNS}
    columns["settings"] = labels.own_settings(records)
    shown = {title: cells for title, cells in columns.items() if len(set(cells)) > 1}
    device_times = [_device_time(record) for record in records]
    shown |= {"device time": device_times} if any(device_times) else {}
    rows: list[list[str | Text]] = [
        [
            subject_of(record),
            *(cells[index] for cells in shown.values()),
            labels.resolution(record),
            *_figures(record),
        ]
        for index, record in enumerate(records)
    ]
    return ["subject", *shown, *_FIGURES], rows


def _device_time(record: Mapping[str, Any]) -> str:
    """`0.41 ms, launch-bound`; empty where the device's own time was not read apart."""
    seconds = record["device_latency_s"]
    if seconds is None:
        return ""
    bound = ", launch-bound" if record["launch_bound"] else ""
    return f"{units.significant(seconds * 1e3)} ms{bound}"


def _cell(value: Value) -> str:
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
    return units.mebibytes(peak_bytes) + (_MARK if _is_resident(record) else "")


def _is_resident(record: Mapping[str, Any]) -> bool:
    return record["peak_memory_bytes"] is not None and record["memory_source"] == memory.RESIDENT


def notes(records: Sequence[Record], most: int = 10) -> list[str]:
    """A line for each subject and note, and how many more there are; what a marked peak is."""
    of_memory = [_RESIDENT] if any(map(_is_resident, records)) else []
    lines = [f"{subject_of(record)}: {record['notes']}" for record in records if record["notes"]]
    lines = list(dict.fromkeys(lines))
    rest = len(lines) - most
    if rest > 0:
        lines = [*lines[:most], f"and {rest} more in the column `notes`"]
    return of_memory + lines


def plan(rows: Sequence[tuple[str, str]]) -> Table:
    """A table of two columns: a name and what it says."""
    table = listing(("", ""), rows)
    table.show_header, table.columns[0].style = False, "bold"
    return table


def listing(
    header: Sequence[str], rows: Sequence[Sequence[str | Text]], right: Sequence[str] = ()
) -> Table:
    """A plain table; square brackets are square brackets. Columns named in `right` hold figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in header:
        table.add_column(title, overflow="fold", justify="right" if title in right else "left")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def markdown(
    header: Sequence[str], rows: Sequence[Sequence[str]], aligned: Sequence[str] | None = None
) -> str:
    """A table as GitHub's Markdown; `aligned` is its second line, cell by cell."""
    lines = [header, aligned or ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
