"""The rows of runs as data frames, with the types of columns.COLUMNS. Pandas, no torch."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vitbench.results import rows as files
from vitbench.results.columns import COLUMN_NAMES
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record

_TYPES = {"text": "string", "bool": "boolean", "int": "Int64", "float": "float64"}


def read(path: Path) -> pd.DataFrame:
    """The rows of a run folder or of a CSV file of records. Raises BadInput.

    A folder in which a run was killed before it wrote records.csv has the rows of its journal.
    """
    file = files.read_all(path)
    columns = {}
    for name in dict.fromkeys((*file.names, *COLUMN_NAMES)):
        kind = _TYPES[files.SCHEMA[name].type] if name in files.SCHEMA else "string"
        columns[name] = pd.Series([record[name] for record in file.records], dtype=kind)
    rows = pd.DataFrame(columns)
    return rows.assign(subject=rows["attention"].where(rows["attention"] != "", rows["backbone"]))


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that hold a measurement."""
    return rows[rows["status"] == MEASURED]


def records(rows: pd.DataFrame) -> list[Record]:
    """The rows as records: plain values, None for an empty cell."""
    cells = rows[list(COLUMN_NAMES)].astype(object)
    values = cells.where(cells.notna(), None).to_numpy().tolist()
    return [dict(zip(COLUMN_NAMES, row, strict=True)) for row in values]
