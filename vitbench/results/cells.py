"""What cells of records.csv say: a text as a value of its column, a row as a whole. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from vitbench.analysis.trust import GRADES
from vitbench.cases.row import cases_of
from vitbench.errors import BadInput, nearest
from vitbench.instruments import Column
from vitbench.results.columns import COLUMNS
from vitbench.results.outcome import COUNTED, FAILURE_KINDS, MEASURED, NOT_MEASURED
from vitbench.results.record import Record, Value
from vitbench.results.spreadsheet import ADVICE

_COLUMNS = {column.name: column for column in COLUMNS}
STATUSES = (MEASURED, COUNTED, NOT_MEASURED, *FAILURE_KINDS)
# What no row, and what no row of a measurement, can do without.
_ALWAYS = ("case", "status", "device", "dtype", "batch_size", "image_height", "image_width")
_OF_TIMES = ("latency_s", "throughput_img_s", "round_medians", "device_name", "torch")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
# As write_csv writes them: finite, and 0 or more.
_PLAIN = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?(e[+-][0-9]{2})?")
# A data frame that has empty cells writes whole numbers so: 12.0.
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0)?")
_ID = re.compile(r"[0-9a-f]{12}")
_EXPECTED = {"int": "a whole number", "float": "a finite number", "bool": "true or false"}
_FLAGS = {"true": True, "false": False}
# Cells keep nine digits, medians of rounds six.
_DIGITS = 1e-4
# What a spreadsheet shows of an id that it took for a number, at worst `1.23E+11`.
_FEW_DIGITS = 0.005


def decimal_mark(texts: Iterable[str]) -> str:
    """The comma, where some of these numbers have one and none has a point; else the point."""
    has_commas = False
    for text in texts:
        if "." in text:
            return "."
        has_commas |= "," in text and bool(_NUMBER.fullmatch(text.replace(",", ".", 1)))
    return "," if has_commas else "."


def value(column: Column, text: str, mark: str = ".") -> Value:
    """The value of a cell; None for an empty one, unless it is a text.

    mark  the decimal mark

    Raises BadInput.
    """
    if mark == "." and column.type == "float" and _PLAIN.fullmatch(text):
        return float(text)  # most figures of a large file
    text = text.strip()
    if column.type == "text":
        return text
    if not text:
        return None
    read = _FLAGS.get(text.lower()) if column.type == "bool" else _number(column, text, mark)
    if read is None or (not column.signed and read < 0):
        raise _wrong(column, text)
    return read


def _number(column: Column, text: str, mark: str) -> int | float | None:
    plain = text if mark == "." else text.translate(str.maketrans(",.", ".,"))
    if column.type == "int":
        return int(plain.removesuffix(".0")) if _WHOLE.fullmatch(plain) else None
    number = float(plain) if _NUMBER.fullmatch(plain) else math.nan
    return number if math.isfinite(number) else None


def _wrong(column: Column, text: str) -> BadInput:
    expected = _EXPECTED.get(column.type, "a text")
    expected += " of 0 or more" if column.type in ("int", "float") and not column.signed else ""
    unit = f" ({column.unit})" if column.unit else ""
    hint = ""
    if column.type != "bool" and re.fullmatch(r"[0-9][0-9.,eE+ -]*", text):
        hint = f"; if a spreadsheet wrote it: {ADVICE}"
    got = repr(text) if text else "nothing"
    return BadInput(f"column {column.name}: expected {expected}{unit}, got {got}{hint}")


def check(record: Record) -> None:
    """Raises BadInput for a row that contradicts itself, or that lacks what its status says.

    The row gets back the id of its case where a spreadsheet took that for a number, and points for
    the commas in its round_medians.
    """
    status = str(record["status"])
    if status not in STATUSES:
        raise BadInput(
            f"column status: no status is called {status!r}; {nearest(status, STATUSES)}"
        )
    for name in (*_ALWAYS, *(_OF_TIMES if status == MEASURED else ())):
        if record[name] in (None, ""):
            raise _wrong(_COLUMNS[name], "")
    if record["trust"] not in ("", None, *GRADES):
        raise BadInput(f"column trust: expected {', '.join(GRADES)}, got {record['trust']!r}")
    record["case"] = _id(record)
    if status == MEASURED:
        _check_times(record)


def _id(record: Record) -> str:
    """The id of the case that the columns describe. Raises BadInput where the row has another."""
    text = str(record["case"]).strip()
    ids = []
    for case in cases_of(record):
        if case.id == text:
            return text
        ids.append(case.id)
    number = text.replace(",", ".")
    if _ID.fullmatch(text) or not _NUMBER.fullmatch(number):
        raise BadInput(
            f"column case: the other columns are of the case {ids[0]}, got {text!r}: cells were "
            "changed or moved, or a later vitbench wrote the file"
        )
    for name in ids:
        is_number = _NUMBER.fullmatch(name) is not None
        if is_number and math.isclose(float(name), float(number), rel_tol=_FEW_DIGITS):
            return name
    raise BadInput(
        f"column case: expected an id of 12 hexadecimal digits, got {text!r}, for which a "
        f"spreadsheet takes some of them: {ADVICE}"
    )


def _check_times(record: Record) -> None:
    """Latency, its interval, throughput and the medians of the rounds tell one story."""
    latency_s = _float(record, "latency_s", 0.0)
    if not latency_s > 0:
        raise BadInput("column latency_s: expected a time over 0 s, got 0")
    rate = _float(record, "batch_size", 0.0) / latency_s
    if not math.isclose(_float(record, "throughput_img_s", 0.0), rate, rel_tol=_DIGITS):
        raise BadInput(
            f"column throughput_img_s: expected batch_size / latency_s, which is {rate:.9g}, got "
            f"{record['throughput_img_s']}"
        )
    low = _float(record, "latency_low_s", 0.0) * (1 - _DIGITS)
    high = _float(record, "latency_high_s", math.inf) * (1 + _DIGITS)
    if not low <= latency_s <= high:
        raise BadInput(
            "column latency_s: expected a time between latency_low_s and latency_high_s, got "
            f"{record['latency_s']}"
        )
    words = str(record["round_medians"]).replace(",", ".").split()
    medians = [float(word) for word in words if _NUMBER.fullmatch(word)]
    if len(medians) < len(words) or not all(low <= m <= high and m > 0 for m in medians):
        raise BadInput(
            "column round_medians: expected times in seconds, between latency_low_s and "
            f"latency_high_s, with spaces between, got {record['round_medians']!r}"
        )
    if record["rounds"] not in (None, len(medians)):
        raise BadInput(
            f"column rounds: expected the {len(medians)} of round_medians, got {record['rounds']}"
        )
    record["round_medians"] = " ".join(words)


def _float(record: Record, name: str, otherwise: float) -> float:
    value = record[name]
    return value if isinstance(value, float) else otherwise if value is None else float(value)
