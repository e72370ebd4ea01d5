"""The rows of a run, from its records.csv or its journal, each checked. No pandas, no torch.

Every command reads rows here. A file comes from programs, spreadsheets and people: what it says is
read where it can mean one thing only, and refused in a sentence where it cannot.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from vitbench import runtimes
from vitbench.cases.axes import AXES
from vitbench.cases.case import Case, Resolution
from vitbench.errors import BadInput
from vitbench.instruments import Column
from vitbench.results import cells, journal, spreadsheet
from vitbench.results.columns import COLUMN_NAMES, COLUMNS
from vitbench.results.csv import csv_text
from vitbench.results.folder import JOURNAL, RECORDS
from vitbench.results.record import Record, Value

# Columns of older files, which are one now: `runtime`.
_OLD_FLAGS = ("compiled", "cuda_graph")
SCHEMA = {column.name: column for column in COLUMNS}
SCHEMA |= {name: Column(name, "", "", "bool") for name in _OLD_FLAGS}
# Without these a row is no measurement of a case. Any other column may be of a later release than
# the file: it is read as empty, an axis as its default.
_REQUIRED = [
    *COLUMN_NAMES[: COLUMN_NAMES.index("latency_s") + 1],
    *("throughput_img_s", "round_medians", "device_name", "torch"),
]
# Of a column that are kept: more are figures, each of which is there once.
_MOST_TEXTS = 1000
_LATER_AXES = AXES.keys() - Case.__dataclass_fields__.keys()


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a file: its own columns, whose texts are values, and all of COLUMN_NAMES.

    names  of the columns in the file
    """

    names: tuple[str, ...]
    records: tuple[Record, ...]


def read(path: Path) -> list[Record]:
    """The rows of a run folder or of a CSV file of records. Raises BadInput.

    A folder in which a run was killed before it wrote records.csv has the rows of its journal.
    """
    file = read_all(path)
    if set(file.names) <= set(COLUMN_NAMES):  # as read_all makes them
        return list(file.records)
    return [{name: row[name] for name in COLUMN_NAMES} for row in file.records]


def read_all(path: Path) -> Rows:
    """The same with the columns that only the file has. Raises BadInput."""
    file, data = _contents(path)
    try:
        sheet = spreadsheet.parse(data, SCHEMA.keys())
        _check_names({*sheet.names})
        return Rows(sheet.names, tuple(_checked(sheet.names, list(sheet.rows))))
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from None


def _contents(path: Path) -> tuple[Path, bytes]:
    """The file that holds the rows, and its bytes; of a journal those of its records.csv."""
    file = path / RECORDS if os.path.isdir(path) else path
    if not os.path.exists(file):
        if os.path.isfile(path / JOURNAL):
            return path / JOURNAL, _of_journal(path)
        raise BadInput(f"{path} holds no {RECORDS}: give a run folder or a CSV file of records")
    try:
        return file, file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file} cannot be read: {error.strerror}") from None


def _of_journal(folder: Path) -> bytes:
    run = journal.read(folder)
    try:
        return csv_text(COLUMN_NAMES, run.records()).encode(errors="backslashreplace")
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{folder / JOURNAL} holds values that no run writes: {reason}") from None


def _check_names(names: Set[str]) -> None:
    """Raises BadInput where a column is missing without which there are no records."""
    known = names | {"runtime"} if names >= {*_OLD_FLAGS} else names
    missing = [name for name in _REQUIRED if name not in known and name not in _LATER_AXES]
    if missing and known >= {"case", "status", "latency_s"}:
        raise BadInput(
            f"it was written by an older vitbench: it has no column {missing[0]!r}; "
            "`vitbench run --resume FOLDER` writes a run's anew, `vitbench baseline update` a "
            "baseline's"
        )
    if missing:
        raise BadInput(f"it is not a CSV file of records: it has no column {missing[0]!r}")


def _checked(names: Sequence[str], rows: Sequence[spreadsheet.Row]) -> Iterable[Record]:
    """The rows with the types of the columns. Raises BadInput that names row and column."""
    columns = [SCHEMA.get(name, Column(name, "", "", "text")) for name in names]
    numbers = [index for index, column in enumerate(columns) if column.type == "float"]
    mark = cells.decimal_mark(row[index] for _, row in rows for index in numbers)
    values = [_Values(column, mark) for column in columns]
    absent = {name: _of_a_later_release(SCHEMA[name]) for name in COLUMN_NAMES}
    rows_of: dict[str, int] = {}
    for number, row in rows:
        record: Record = dict(absent)
        try:
            record.update(zip(names, map(operator.getitem, values, row), strict=True))
            if "runtime" not in names:
                compiled, graph = (bool(record[name]) for name in _OLD_FLAGS)
                record["runtime"] = runtimes.of_old_flags(compiled, graph)
            cells.check(record)
        except BadInput as error:
            raise BadInput(f"row {number}, {error}") from None
        first = rows_of.setdefault(str(record["case"]), number)
        if first != number:
            raise BadInput(
                f"rows {first} and {number} are both of the case {record['case']}: keep one"
            )
        yield record


class _Values(dict[str, Value]):
    """The values of a column by the texts of its cells. Most columns hold a few texts over and
    over, and reading a text takes longer than finding it. Raises BadInput."""

    def __init__(self, column: Column, mark: str) -> None:
        super().__init__()
        self._column, self._mark = column, mark

    def __missing__(self, text: str) -> Value:
        value = cells.value(self._column, text, self._mark)
        if len(self) < _MOST_TEXTS:
            self[text] = value
        return value


def _of_a_later_release(column: Column) -> Value:
    """The value of a column in files that do not have it."""
    if column.name in AXES:
        default = AXES[column.name].default
        assert not isinstance(default, Resolution)  # whose axis has columns of other names
        return default
    return "" if column.type == "text" else None
