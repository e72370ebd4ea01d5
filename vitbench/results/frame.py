"""records.csv as a data frame, with the types of record.COLUMNS. Pandas, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from vitbench.cases.case import runtime_of
from vitbench.errors import BadInput
from vitbench.results.columns import COLUMN_NAMES, COLUMNS
from vitbench.results.folder import RECORDS
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record

# Columns of older files, which are one now: `runtime`.
_OLD_FLAGS = {"compiled", "cuda_graph"}
_PANDAS_TYPES = {"text": "string", "bool": "boolean", "int": "Int64", "float": "float64"}
# What makes two rows different measurements, apart from the mechanism and the resolution.
SETTING = (
    "device",
    "dtype",
    "batch_size",
    "stride",
    "dim",
    "num_heads",
    "mode",
    "cold",
)
VARIANT = ("impl", "runtime", "settings")


def read(path: Path) -> pd.DataFrame:
    """The rows of a run folder or of a records.csv. Raises BadInput."""
    file = path / RECORDS if path.is_dir() else path
    if not file.exists():
        raise BadInput(f"{path} holds no {RECORDS}: give a run folder or a CSV file of records")
    types = {column.name: _PANDAS_TYPES[column.type] for column in COLUMNS}
    types |= dict.fromkeys(_OLD_FLAGS, "boolean")
    try:
        rows = pd.read_csv(
            file,
            dtype=types,
            keep_default_na=False,
            na_values={c.name: [""] for c in COLUMNS if c.type != "text"},
            true_values=["true"],
            false_values=["false"],
        )
    except (ValueError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} is not a CSV file of records: {first_line(error)}") from None
    if "runtime" not in rows.columns and set(rows.columns) >= _OLD_FLAGS:
        pairs = zip(rows["compiled"], rows["cuda_graph"], strict=True)
        rows["runtime"] = pd.array([runtime_of(*pair) for pair in pairs], dtype="string")
    missing = [name for name in COLUMN_NAMES if name not in rows.columns]
    if missing and {"case", "status", "latency_s"} <= set(rows.columns):
        raise BadInput(
            f"{file} was written by an older vitbench: it has no column {missing[0]!r}; "
            "`vitbench run --resume FOLDER` writes a run's anew, `vitbench baseline update` a "
            "baseline's"
        )
    if missing:
        raise BadInput(f"{file} is not a CSV file of records: it has no column {missing[0]!r}")
    return rows.assign(subject=rows["attention"].where(rows["attention"] != "", rows["backbone"]))


def first_line(error: Exception) -> str:
    """An exception's message, cut to its first line."""
    return (str(error).splitlines() or ["unreadable"])[0]


def measured(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that hold a measurement."""
    return rows[rows["status"] == MEASURED]


def records(rows: pd.DataFrame) -> list[Record]:
    """The rows as records: plain values, None for an empty cell."""
    cells = rows[list(COLUMN_NAMES)].astype(object)
    found = cells.where(cells.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in found]


def varying(rows: pd.DataFrame, columns: Iterable[str]) -> list[str]:
    """The columns that hold more than one value."""
    return [name for name in columns if rows[name].nunique(dropna=False) > 1]


def resolution(row: pd.Series) -> str:
    """`224` or `800x1280`."""
    height, width = int(row["image_height"]), int(row["image_width"])
    return str(height) if height == width else f"{height}x{width}"


def variants(rows: pd.DataFrame) -> pd.Series:
    """For each row what tells it from others of its mechanism: `alpha=0.5`, `eager`, or nothing."""
    labels = pd.Series("", index=rows.index)
    for _, group in rows.groupby("subject"):
        words = [name for name in varying(group, VARIANT) if name != "settings"]
        parts = {index: _words(group.loc[index], words) for index in group.index}
        for index, settings in _varying_settings(group).items():
            parts[index] += settings
        for index, words_of_row in parts.items():
            labels[index] = " ".join(words_of_row)
    return labels


def _words(row: pd.Series, names: list[str]) -> list[str]:
    shown = []
    for name in names:
        if name != "runtime" or row[name] != "eager":
            shown.append(str(row[name]))
    return shown


def _varying_settings(group: pd.DataFrame) -> dict[object, list[str]]:
    """`alpha=0.5` where alpha differs inside one setting; what every row shares says nothing.

    Settings that follow the stride by themselves are not listed.
    """
    parsed = {index: str(text).split() for index, text in group["settings"].items()}
    strides = group["stride"].fillna(0).to_dict()
    common_at = {
        stride: set.intersection(*(set(parsed[i]) for i in parsed if strides[i] == stride))
        for stride in set(strides.values())
    }
    return {
        index: [word for word in words if word not in common_at[strides[index]]]
        for index, words in parsed.items()
    }
