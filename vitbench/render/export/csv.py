"""CSV for spreadsheets: the columns of records.csv, names, and published accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vitbench.render import text
from vitbench.render.export import Format, Results
from vitbench.render.export._figures import PUBLISHED, published
from vitbench.results.columns import COLUMN_NAMES
from vitbench.results.csv import csv_text
from vitbench.results.record import Record

FORMAT = Format(
    name="csv",
    summary="records.csv with names and published accuracy; no cell is a formula",
    suffix=".csv",
)


def render(results: Results) -> Mapping[str, bytes]:
    """In UTF-8. A text that a spreadsheet would compute has an apostrophe before it."""
    columns = ("name", *COLUMN_NAMES, *(column.name for column in PUBLISHED))
    return {"": csv_text(columns, _rows(results)).encode("utf-8", errors="backslashreplace")}


def _rows(results: Results) -> Iterator[Record]:
    names = results.names()
    for record in results.records:
        row = {"name": names[str(record["case"])], **record, **published(record)}
        yield {
            name: text.spreadsheet(value) if isinstance(value, str) else value
            for name, value in row.items()
        }
