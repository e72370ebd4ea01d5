"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from vitbench.cases.case import Resolution
from vitbench.render import units
from vitbench.results.outcome import COUNTED, MEASURED
from vitbench.results.record import Record

_SETTING_COLUMNS = (
    ("impl", "impl"),
    ("runtime", "runtime"),
    ("cold", "cold"),
    ("mode", "mode"),
    ("device", "device"),
    ("dtype", "dtype"),
    ("batch_size", "batch"),
    ("stride", "stride"),
    ("dim", "dim"),
    ("num_heads", "heads"),
    ("settings", "settings"),
)
_GRADE_COLOURS = {"A": "green", "B": "yellow", "C": "dark_orange", "D": "red"}


_FIGURES = ("px", "images/s", "±", "ms a call", "MACs", "params", "peak MiB", "trust")


def results(records: Sequence[Record]) -> Table:
    """One row per case; a setting is shown only where it varies."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    header, rows = _results(records)
    for title in header:
        words = title not in _FIGURES or title == "trust"
        table.add_column(title, justify="left" if words else "right")
    for row in rows:
        table.add_row(*row)
    return table


def results_markdown(records: Sequence[Record]) -> str:
    """The same as GitHub's Markdown, figures to the right."""
    header, rows = _results(records)
    aligned = ["---:" if title in _FIGURES[:-1] else "---" for title in header]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return markdown(header, cells, aligned)


def _results(records: Sequence[Record]) -> tuple[list[str], list[list[str | Text]]]:
    """The header and the cells of each case."""
    shown = [
        (name, title)
        for name, title in _SETTING_COLUMNS
        if len({own_setting(record, name, records) for record in records}) > 1
    ]
    rows: list[list[str | Text]] = [
        [
            str(record["attention"] or record["backbone"]),
            *(own_setting(record, name, records) for name, _ in shown),
            _resolution(record),
            *_figures(record),
        ]
        for record in records
    ]
    return ["subject", *(title for _, title in shown), *_FIGURES], rows


def own_setting(record: Mapping[str, Any], name: str, records: Sequence[Record]) -> str:
    """A setting as text; of the hyper-parameters those that differ inside one mechanism."""
    if name != "settings":
        return str(record[name]).lower() if isinstance(record[name], bool) else str(record[name])
    peers = [
        set(str(peer["settings"]).split())
        for peer in records
        if (peer["attention"], peer["backbone"]) == (record["attention"], record["backbone"])
    ]
    words = str(record["settings"]).split()
    common = set.intersection(*peers)
    return " ".join(word for word in words if word not in common)


def _resolution(record: Mapping[str, Any]) -> str:
    return str(Resolution(int(record["image_height"]), int(record["image_width"])))


def _figures(record: Mapping[str, Any]) -> list[str | Text]:
    if record["status"] == COUNTED:
        return ["", "", "", *_counts(record), ""]
    if record["status"] != MEASURED:
        reason = f"{record['status']}: {record['message']}"
        return ["-", "", "", "", "", "", Text(reason, style="red", overflow="fold")]
    grade = str(record["trust"])
    return [
        units.significant(record["throughput_img_s"]),
        f"{record['noise'] * 100:.1f}%",
        units.significant(record["latency_s"] * 1e3),
        *_counts(record),
        Text(grade, style=_GRADE_COLOURS[grade]),
    ]


def _counts(record: Mapping[str, Any]) -> list[str | Text]:
    return [
        units.si(record["macs"]),
        units.si(record["params"]),
        units.mebibytes(record["peak_memory_bytes"]),
    ]


def plain(text: str) -> Text:
    """Text whose square brackets are square brackets."""
    return Text(text)


def plan(rows: Sequence[tuple[str, str]]) -> Table:
    """A table of two columns: a name and what it says."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(value))
    return table


def listing(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in header:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def markdown(
    header: Sequence[str], rows: Sequence[Sequence[str]], aligned: Sequence[str] | None = None
) -> str:
    """A table as GitHub's Markdown; `aligned` is its second line, cell by cell."""
    lines = [header, aligned or ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
