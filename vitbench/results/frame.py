"""records.csv as a data frame, with the types of columns.COLUMNS. Pandas, no torch."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vitbench import runtimes
from vitbench.cases.axes import AXES
from vitbench.cases.case import Case
from vitbench.errors import BadInput
from vitbench.results.columns import COLUMN_NAMES, COLUMNS
from vitbench.results.folder import RECORDS
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record

_TYPES = {"text": "string", "bool": "boolean", "int": "Int64", "float": "float64"}
# Columns of older files, which are one now: `runtime`.
_OLD_FLAGS = ["compiled", "cuda_graph"]
# Without these a row is no measurement of a case. Any other column may be of a later release than
# the file: it is read as empty, an axis as its default.
_REQUIRED = [
    *COLUMN_NAMES[: COLUMN_NAMES.index("latency_s") + 1],
    *("throughput_img_s", "round_medians", "device_name", "torch"),
]
_LATER_AXES = AXES.keys() - Case.__dataclass_fields__.keys()


def read(path: Path) -> pd.DataFrame:
    """The rows of a run folder or of a records.csv. Raises BadInput."""
    file = path / RECORDS if path.is_dir() else path
    if not file.exists():
        raise BadInput(f"{path} holds no {RECORDS}: give a run folder or a CSV file of records")
    types = {column.name: _TYPES[column.type] for column in COLUMNS}
    try:
        rows = pd.read_csv(
            file,
            dtype=types | dict.fromkeys(_OLD_FLAGS, "boolean"),
            keep_default_na=False,
            na_values={column.name: [""] for column in COLUMNS if column.type != "text"},
            true_values=["true"],
            false_values=["false"],
        )
        if "runtime" not in rows and set(_OLD_FLAGS) <= set(rows):
            flags = rows[_OLD_FLAGS].astype(bool).to_numpy().tolist()
            rows["runtime"] = pd.array(
                [runtimes.of_old_flags(*pair) for pair in flags], dtype="string"
            )
    except (ValueError, UnicodeDecodeError) as error:
        reason = (str(error).splitlines() or ["unreadable"])[0]
        raise BadInput(f"{file} is not a CSV file of records: {reason}") from None
    missing = [name for name in _REQUIRED if name not in rows and name not in _LATER_AXES]
    if missing and {"case", "status", "latency_s"} <= set(rows):
        raise BadInput(
            f"{file} was written by an older vitbench: it has no column {missing[0]!r}; "
            "`vitbench run --resume FOLDER` writes a run's anew, `vitbench baseline update` a "
            "baseline's"
        )
    if missing:
        raise BadInput(f"{file} is not a CSV file of records: it has no column {missing[0]!r}")
    for name in set(COLUMN_NAMES) - set(rows):
        empty: object = "" if types[name] == "string" else pd.NA
        empty = AXES[name].default if name in AXES else empty
        rows[name] = pd.Series([empty] * len(rows), dtype=types[name])
    return rows.assign(subject=rows["attention"].where(rows["attention"] != "", rows["backbone"]))


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that hold a measurement."""
    return rows[rows["status"] == MEASURED]


def records(rows: pd.DataFrame) -> list[Record]:
    """The rows as records: plain values, None for an empty cell."""
    cells = rows[list(COLUMN_NAMES)].astype(object)
    values = cells.where(cells.notna(), None).to_numpy().tolist()
    return [dict(zip(COLUMN_NAMES, row, strict=True)) for row in values]
