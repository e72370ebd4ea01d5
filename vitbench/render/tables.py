"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from vitbench.cases.axes import AXES
from vitbench.cases.row import SETTINGS
from vitbench.render import labels, units
from vitbench.results.outcome import COUNTED, MEASURED
from vitbench.results.record import Record, Value, subject_of

SETTING_COLUMNS = (
    *((name, AXES[name].title) for name in SETTINGS),
    ("device", "device"),
)
_GRADE_COLOURS = {"A": "green", "B": "yellow", "C": "dark_orange", "D": "red"}


_FIGURES = ("px", "images/s", "±", "ms a call", "MACs", "params", "peak MiB", "trust")


def results(records: Sequence[Record]) -> Table:
    """One row per case; a setting is shown only where it varies."""
    header, rows = _results(records)
    return listing(header, rows, right=_FIGURES[:-1])


def results_markdown(records: Sequence[Record]) -> str:
    """The same as GitHub's Markdown, figures to the right."""
    header, rows = _results(records)
    aligned = ["---:" if title in _FIGURES[:-1] else "---" for title in header]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return markdown(header, cells, aligned)


def _results(records: Sequence[Record]) -> tuple[list[str], list[list[str | Text]]]:
    """The header and the cells of each case."""
    columns = {title: [_cell(r[name]) for r in records] for name, title in SETTING_COLUMNS}
    columns["settings"] = own_settings(records)
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


def own_settings(records: Sequence[Record]) -> list[str]:
    """Of each row's hyper-parameters those that differ inside its mechanism."""
    own = [""] * len(records)
    subjects = [subject_of(record) for record in records]
    for subject in set(subjects):
        peers = [index for index, other in enumerate(subjects) if other == subject]
        texts = labels.own_words([str(records[index]["settings"]) for index in peers])
        for index, text in zip(peers, texts, strict=True):
            own[index] = text
    return own


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
    shown = {"macs": units.si, "params": units.si, "peak_memory_bytes": units.mebibytes}
    cells: list[str | Text] = [
        "" if record[name] is None else show(record[name]) for name, show in shown.items()
    ]
    return [f"≥ {cells[0]}" if record.get("macs_is_lower_bound") else cells[0], *cells[1:]]


def notes(records: Sequence[Record], most: int = 10) -> list[str]:
    """A line for each subject and note, and how many more there are."""
    lines = [f"{subject_of(record)}: {record['notes']}" for record in records if record["notes"]]
    lines = list(dict.fromkeys(lines))
    rest = len(lines) - most
    return lines if rest <= 0 else [*lines[:most], f"and {rest} more in the column `notes`"]


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
