"""Files that strangers changed: read as they were meant, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.strangers.changes import (
    READ,
    REFUSED,
    REFUSED_CELLS,
    Change,
    exported_by_excel_in_german,
    good_run,
    rows_of,
    with_cell,
)
from vitbench.__main__ import run
from vitbench.results import rows
from vitbench.results.record import Record


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that nobody changed."""
    return good_run(tmp_path_factory.mktemp("good"))


def changed(good: Path, change: Change, folder: Path) -> Path:
    """The stranger's file."""
    path = folder / f"{change.__name__}.csv"
    path.write_bytes(change(rows_of(good)))
    return path


def by_case(path: Path) -> list[Record]:
    """The records of a file, in one order."""
    return sorted(rows.read(path), key=lambda record: str(record["case"]))


@pytest.mark.parametrize("change", READ, ids=lambda change: change.__name__)
def test_what_can_mean_one_thing_is_read(good: Path, change: Change, tmp_path: Path) -> None:
    """Every value of every row is that of the good file."""
    assert by_case(changed(good, change, tmp_path)) == by_case(good)


def refusals(words: Sequence[str], path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence of a command, which does nothing else."""
    capsys.readouterr()
    assert run(list(words)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"vitbench: {path}")
    assert captured.err.count("\n") == 1
    assert "tokeniz" not in captured.err
    return captured.err


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_the_rest_is_one_sentence(
    good: Path, change: Change, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With exit status 2: no row is left out, and the gate does not pass."""
    path = changed(good, change, tmp_path)
    assert REFUSED[change] in refusals(["check", str(good), str(path)], path, capsys)


@pytest.mark.parametrize(("column", "text"), REFUSED_CELLS)
def test_a_cell_that_says_something_else(
    good: Path, column: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same."""
    path = tmp_path / "changed.csv"
    path.write_bytes(with_cell(rows_of(good), column, text))
    assert REFUSED_CELLS[column, text] in refusals(["check", str(good), str(path)], path, capsys)


def test_every_command_reads_alike(
    good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All refuse a row that they cannot read, on either side, and write nothing; what can be read
    passes."""
    path = tmp_path / "bad.csv"
    path.write_bytes(with_cell(rows_of(good), "latency_s", "abc"))
    bad, fine = str(path), str(good)
    for words in (
        ["table", fine, bad],
        ["plot", bad],
        ["compare", bad, fine],
        ["compare", fine, bad],
        ["check", bad, fine],
        ["check", bad],
        ["trend", fine, bad],
        ["baseline", "update", bad, "--out", str(tmp_path / "base.csv")],
    ):
        assert "row 2, column latency_s" in refusals(words, path, capsys)
    assert [entry.name for entry in tmp_path.iterdir()] == ["bad.csv"]
    path.write_bytes(exported_by_excel_in_german(rows_of(good)))
    for words in (["table", bad], ["compare", fine, bad], ["check", bad, fine]):
        assert run(words) == 0
