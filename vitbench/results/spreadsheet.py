"""Rows of text, from CSV files as programs, spreadsheets and people write them. Pure."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass

from vitbench.errors import BadInput

# What keeps a spreadsheet from changing what cells say.
ADVICE = (
    "in Excel, import the file with Data > From Text/CSV, every column as text, and export it as "
    "'CSV UTF-8'"
)
_DELIMITERS = ",;\t|"
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LONGEST = 50_000  # characters of a header that are looked at
# The first line of some files names their delimiter: `sep=;`.
_SEPARATOR = re.compile(rf'"?sep=([{_DELIMITERS}])"?\r?\n')


# The number of a row, as a spreadsheet counts, and its cells, one for each column.
Row = tuple[int, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The names of the columns, and the rows below; reading one that is no row raises BadInput."""

    names: tuple[str, ...]
    rows: Iterator[Row]


def parse(data: bytes, known: Set[str]) -> Sheet:
    """The table in a file, without its empty rows and its empty columns.

    The delimiter is the one with which the header holds most of the `known` names, each of which
    may stand there once. Raises BadInput.
    """
    text = _decoded(data)
    if separator := _SEPARATOR.match(text):
        text = text[separator.end() :]
    delimiter = separator[1] if separator else _delimiter(text, known)
    rows = _rows(text, delimiter)
    header = [name.strip() for name in next(rows, (0, []))[1]]
    names = tuple(name for name in header if name)
    if twice := next((name for name in names if name in known and names.count(name) > 1), None):
        raise BadInput(f"two columns are called {twice!r}")
    is_open = not text.endswith(("\n", "\r"))
    return Sheet(names, _below(header, rows, delimiter, is_open=is_open))


def _below(
    header: Sequence[str], rows: Iterator[tuple[int, list[str]]], delimiter: str, *, is_open: bool
) -> Iterator[Row]:
    """The rows below the header; `is_open`: the last one has no end of line."""
    length = len(header)
    is_named = all(header)
    for number, cells in rows:
        if len(header) > 1:
            cells = _split(number, cells, delimiter)
        length = len(cells)
        if is_named and length == len(header) and cells[0].strip() != header[0]:
            yield number, tuple(cells)
            continue
        whole = _whole(number, cells, header)
        yield number, tuple(cell for cell, name in zip(whole, header, strict=True) if name)
    if is_open and length < len(header):
        raise BadInput(
            f"row {number} has {length} of {len(header)} cells: the file is cut off there"
        )


def _decoded(data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16, in which Excel exports `Unicode Text`."""
    marks = (name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark))
    encoding = next(marks, "utf-8")
    if encoding == "utf-8":  # without a mark, every second byte of Latin text in UTF-16 is zero
        zeros = {"utf-16-le": data[1::2].count(0), "utf-16-be": data[::2].count(0)}
        likely = max(zeros, key=lambda name: zeros[name])
        encoding = likely if zeros[likely] > len(data) / 4 else encoding
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise BadInput(f"it is not text in UTF-8 or UTF-16: {ADVICE}") from None
    if "\0" in text:
        raise BadInput("it is not a text file")
    return text


def _delimiter(text: str, known: Set[str]) -> str:
    lines = (line for line in text.splitlines() if line.strip(f'{_DELIMITERS}" '))
    header = next(lines, "")

    def names_with(delimiter: str) -> int:
        (cells,) = csv.reader([header[:_LONGEST]], delimiter=delimiter)
        return len(known & {cell.strip() for cell in cells})

    return max(_DELIMITERS, key=names_with)


def _rows(text: str, delimiter: str, first: int = 1) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, with their numbers. Raises BadInput."""
    number = first - 1
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for number, cells in enumerate(reader, first):
            if any(map(str.strip, cells)):
                yield number, cells
    except csv.Error as error:
        raise BadInput(
            f"row {number + 1} lacks a quotation mark, or the file is cut off there ({error})"
        ) from None


def _split(number: int, cells: list[str], delimiter: str) -> list[str]:
    """The cells of a row that a spreadsheet with another delimiter took for one cell."""
    if len(cells) > 1 or delimiter not in cells[0]:
        return cells
    rows = list(_rows(cells[0], delimiter, number))
    return rows[0][1] if len(rows) == 1 else cells


def _whole(number: int, cells: list[str], header: Sequence[str]) -> list[str]:
    """A row with a cell for each column. Raises BadInput for a cell of no column."""
    if [cell.strip() for cell in cells] == header:
        raise BadInput(f"row {number} is the header again: give each file by itself")
    for index, cell in enumerate(cells):
        # A first column without a name numbers the rows, as data frames are written.
        if cell.strip() and index and not "".join(header[index : index + 1]):
            raise BadInput(f"row {number} has {cell!r} in column {index + 1}, which has no name")
    # Excel leaves out the last cells of a row where they are empty.
    return cells[: len(header)] + [""] * (len(header) - len(cells))
