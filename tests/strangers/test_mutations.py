"""Random damage to the files of a run: no traceback, and no gate that passes what is unread."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strangers.changes import Rows, good_run, rows_of, text_of
from vitbench.__main__ import run
from vitbench.analysis import gate
from vitbench.errors import BadInput
from vitbench.results import journal
from vitbench.results import rows as files
from vitbench.results.folder import JOURNAL, RECORDS
from vitbench.results.outcome import MEASURED

STATUSES = {0, 2, gate.REGRESSION, gate.UNDECIDED, gate.NOTHING}
DRAWS = [20, pytest.param(1500, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that nobody changed."""
    return good_run(tmp_path_factory.mktemp("good"))


def statuses(good: Path, other: Path) -> tuple[int, int]:
    """Of `table` and `check`, which say why they refuse; what one cannot read, both refuse."""
    ends = []
    for words in (["table", str(other)], ["check", str(good), str(other)]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            ends.append(run(words))
        assert ends[-1] in STATUSES
        assert err.getvalue().count("\n") == (ends[-1] == 2), err.getvalue()
        assert bool(out.getvalue()) == (ends[-1] != 2)
    assert ends[0] == 0 or ends == [2, 2]
    return ends[0], ends[1]


INDEX = st.integers(0, 10_000)
CELLS = st.sampled_from(
    ["", "abc", "-1", "inf", "nan", "0", "1e999", "1,5", "2.5", "1.23E+11", '"', "=A1", "0.01", "7"]
) | st.text(max_size=5)


def swapped(rows: Rows, a: int, b: int, c: int, d: int) -> Rows:
    """Two cells have changed places."""
    (a, b), (c, d) = _place(rows, a, b), _place(rows, c, d)
    rows[a][b], rows[c][d] = rows[c][d], rows[a][b]
    return rows


def replaced(rows: Rows, a: int, b: int, text: str) -> Rows:
    """A cell says something else."""
    a, b = _place(rows, a, b)
    rows[a][b] = text
    return rows


def _place(rows: Rows, a: int, b: int) -> tuple[int, int]:
    return a % len(rows), b % len(rows[a % len(rows)])


def column_deleted(rows: Rows, a: int) -> Rows:
    """In the header and in every row."""
    return [row[: a % len(row)] + row[a % len(row) + 1 :] for row in rows]


def row_repeated(rows: Rows, a: int) -> Rows:
    """The header too."""
    return [*rows, list(rows[a % len(rows)])]


def row_deleted(rows: Rows, a: int) -> Rows:
    """The header too."""
    return rows[: a % len(rows)] + rows[a % len(rows) + 1 :]


GRIDS: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just(swapped), INDEX, INDEX, INDEX, INDEX),
    st.tuples(st.just(replaced), INDEX, INDEX, CELLS),
    st.tuples(st.just(column_deleted), INDEX),
    st.tuples(st.just(row_repeated), INDEX),
    st.tuples(st.just(row_deleted), INDEX),
)
FORMS = st.tuples(
    st.sampled_from(",,,;\t|"),
    st.sampled_from(["\n", "\n", "\r\n", "\r"]),
    st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252", "utf-32"]),
)
# The share of the file that is left, and a byte that is another.
CUTS = st.one_of(st.just(1.0), st.floats(0, 1))
BYTES = st.none() | st.tuples(INDEX, st.integers(0, 255))


@pytest.mark.parametrize("draws", DRAWS)
def test_records(good: Path, draws: int) -> None:
    """Cells, rows, columns, bytes, delimiters and encodings are changed. What is read has the
    latency that was measured of that case, and every line that is whole is read.
    """
    true = {record["case"]: record for record in files.read(good)}
    lines = (good / RECORDS).read_bytes().splitlines(keepends=True)[1:]

    @settings(max_examples=draws)
    @given(st.lists(GRIDS, max_size=3), FORMS, CUTS, BYTES)
    def check(grids: list[Any], form: Any, cut: float, byte: tuple[int, int] | None) -> None:
        rows = rows_of(good)
        for change, *where in grids:
            rows = change(rows, *where) or [[""]]
        delimiter, end, encoding = form
        data = bytearray(text_of(rows, delimiter, end).encode(encoding, errors="replace"))
        data = data[: round(cut * len(data))]
        if byte is not None and data:
            data[byte[0] % len(data)] = byte[1]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "records.csv")
            path.write_bytes(data)
            if statuses(good, path)[0] == 2:
                return
            read = {record["case"]: record for record in files.read(path)}
        whole = [line.partition(b",")[0].decode() for line in lines if line in data]
        assert read.keys() >= {*whole}
        for case, record in read.items():
            if record["status"] == true[case]["status"] == MEASURED:
                assert record["latency_s"] == pytest.approx(true[case]["latency_s"], rel=1e-3)

    check()


def line_cut(lines: list[bytes], a: int, b: int) -> Iterator[bytes]:
    """A line lacks its end."""
    for index, line in enumerate(lines):
        yield line[: b % len(line)] + b"\n" if index == a % len(lines) else line


def lines_swapped(lines: list[bytes], a: int, b: int) -> list[bytes]:
    """Two lines have changed places."""
    a, b = a % len(lines), b % len(lines)
    lines[a], lines[b] = lines[b], lines[a]
    return lines


def line_repeated(lines: list[bytes], a: int) -> list[bytes]:
    """At the end."""
    return [*lines, lines[a % len(lines)]]


def line_deleted(lines: list[bytes], a: int) -> list[bytes]:
    """Any of them."""
    return lines[: a % len(lines)] + lines[a % len(lines) + 1 :]


def value_replaced(lines: list[bytes], a: int, b: int, text: str) -> list[bytes]:
    """A value of an entry is another."""
    a = a % len(lines)
    values = list(re.finditer(rb"(?<=: )[^,{}\[\]]+", lines[a]))
    start, end = values[b % len(values)].span() if values else (0, 0)
    lines[a] = lines[a][:start] + text.encode() + lines[a][end:]
    return lines


VALUES = st.sampled_from(
    [
        "null",
        "-1",
        "0",
        "3",
        "NaN",
        "Infinity",
        "1e999",
        '"abc"',
        "[]",
        "{}",
        "[null]",
        "true",
        "2.5",
    ]
)
LINES: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.just(line_cut), INDEX, INDEX),
    st.tuples(st.just(lines_swapped), INDEX, INDEX),
    st.tuples(st.just(line_repeated), INDEX),
    st.tuples(st.just(line_deleted), INDEX),
    st.tuples(st.just(value_replaced), INDEX, INDEX, VALUES),
)


@pytest.fixture(scope="module")
def killed(good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of that run, which was killed before its CSV files were written."""
    folder = tmp_path_factory.mktemp("killed")
    shutil.copy(good / JOURNAL, folder)
    return folder


def test_a_killed_run_is_read_from_its_journal(good: Path, killed: Path) -> None:
    """table and check read the rows that its CSV file would have had."""
    assert files.read(killed) == files.read(good)
    assert statuses(good, killed) == (0, 0)


@pytest.mark.parametrize("draws", DRAWS)
def test_journals(good: Path, killed: Path, draws: int) -> None:
    """Lines, values and bytes are changed. The plan's cases are rows, and the gate passes only a
    journal that has those of the good one.
    """
    true = {case.id for case in journal.read(killed).plan.cases}

    @settings(max_examples=draws)
    @given(st.lists(LINES, max_size=3), CUTS, BYTES)
    def check(changes: list[Any], cut: float, byte: tuple[int, int] | None) -> None:
        lines = (killed / JOURNAL).read_bytes().splitlines(keepends=True)
        for change, *where in changes:
            lines = list(change(lines, *where)) or [b"\n"]
        data = bytearray(b"".join(lines))
        data = data[: round(cut * len(data))]
        if byte is not None and data:
            data[byte[0] % len(data)] = byte[1]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, JOURNAL).write_bytes(data)
            ends = statuses(good, Path(folder))
            if ends[0] == 2:
                with pytest.raises(BadInput):
                    files.read(Path(folder))
                return
            rows = files.read(Path(folder))
            plan = json.loads(data.splitlines()[0])["plan"]
            assert len(rows) == len(plan["cases"])
            assert ends[1] != 0 or {row["case"] for row in rows} >= true

    check()
