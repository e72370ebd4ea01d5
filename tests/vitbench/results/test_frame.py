"""records.csv as a data frame: types, missing values, and what tells rows apart."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.vitbench.examples import (
    ROOT,
    backbone_case,
    case,
    ceilings,
    environment,
    measured,
    run_folder,
)
from vitbench.cases.case import Case
from vitbench.cases.row import case_of
from vitbench.errors import BadInput
from vitbench.results import frame
from vitbench.results.columns import COLUMN_NAMES, COLUMNS
from vitbench.results.csv import write_csv
from vitbench.results.outcome import Failed, Outcome
from vitbench.results.record import build_record


def read_back(folder: Path, *pairs: tuple[Case, Outcome]) -> pd.DataFrame:
    """Rows of one-round runs through a CSV file."""
    return frame.read(run_folder(folder, {case: [outcome] for case, outcome in pairs}))


def test_values_come_back(tmp_path: Path) -> None:
    """Every cell of the CSV file equals the record's, in its type and to the digits that a CSV file
    has; an empty one is missing."""
    pairs: list[tuple[Case, Outcome]] = [
        (case(), measured(0.01, 0.011, 0.012)),
        (case(cold=True), Failed("error", "NA")),
        (backbone_case(), measured()),
    ]
    for row, (each, outcome) in zip(frame.records(read_back(tmp_path, *pairs)), pairs, strict=True):
        expected = build_record(each, [outcome], ceilings(), environment())
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, float):
                assert row[name] == pytest.approx(value, rel=1e-8), name
            elif value is None:
                assert row[name] in (None, ""), name
            else:
                assert (row[name], type(row[name])) == (value, type(value)), name


@pytest.mark.parametrize("path", ["cpu-quick", "cpu-detection", "baseline/counts.csv"])
def test_rows_of_older_releases(path: str) -> None:
    """The committed reports have two columns where there is one now; ids and cases are as then."""
    records = frame.records(frame.read(ROOT / "reports" / path))
    assert {record["runtime"] for record in records} == {"eager"}
    assert [case_of(record).id for record in records] == [record["case"] for record in records]


def test_both_columns_of_older_releases_count(tmp_path: Path) -> None:
    """Their four combinations are four runtimes."""
    names = ["eager", "compile", "cuda-graph", "compile+cuda-graph"]
    rows = read_back(tmp_path, *((case(runtime=name), measured()) for name in names))
    flags = {"compiled": [False, True] * 2, "cuda_graph": [False, False, True, True]}
    write_csv(
        tmp_path / "old.csv",
        (*(name for name in COLUMN_NAMES if name != "runtime"), *flags),
        [row | {k: v[i] for k, v in flags.items()} for i, row in enumerate(frame.records(rows))],
    )
    found = frame.read(tmp_path / "old.csv")["runtime"].tolist()
    assert found == names


def test_a_column_of_a_later_release_is_empty(tmp_path: Path) -> None:
    """A file of before it is read; without what makes a row a measurement it is not."""
    (row,) = frame.records(read_back(tmp_path, (case(), measured())))
    for name, empty in (("retries", None), ("fallback", ""), ("launch_bound", None)):
        path = tmp_path / "older.csv"
        write_csv(path, [column for column in COLUMN_NAMES if column != name], [row])
        assert frame.records(frame.read(path)) == [row | {name: empty}]


def test_a_plugin_that_calls_a_number_a_word(tmp_path: Path) -> None:
    """Its settings may be words that look like numbers, or hold spaces: the row is its case's."""
    word = case(attention="mine", params=(("kernel", "3"), ("path", "a b"), ("scale", 1.0)))
    (row,) = frame.records(read_back(tmp_path, (word, measured())))
    assert row["case"] == word.id
    assert case_of(row) == word


def test_types() -> None:
    """A column with a unit is a number."""
    assert not [column.name for column in COLUMNS if column.unit and column.type == "text"]


def test_a_file_or_its_folder(tmp_path: Path) -> None:
    """The same rows either way, with the mechanism's or the backbone's name; failures are rows, not
    figures."""
    failed = (case(dim=64), Failed("timeout", "3 s"))
    rows = read_back(tmp_path, (case(), measured()), failed, (backbone_case(), measured()))
    pd.testing.assert_frame_equal(frame.read(tmp_path / "records.csv"), rows)
    assert rows["subject"].tolist() == ["msa", "msa", "tiny"]
    assert frame.measured(rows)["subject"].tolist() == ["msa", "tiny"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a CSV file of records"),
        (b"a,b\n1,2\n", "it has no column 'case'"),
        (b"\xff\xfe\x00", "it is not text in UTF-8 or UTF-16"),
        (b'case\n"', "it has no column 'attention'"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    """In one sentence that names the file."""
    path = tmp_path / "records.csv"
    path.write_bytes(data)
    with pytest.raises(BadInput, match=words) as caught:
        frame.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_records(tmp_path: Path) -> None:
    """And a path that is not there."""
    for path in (tmp_path, tmp_path / "no"):
        with pytest.raises(BadInput, match=r"holds no records\.csv"):
            frame.read(path)
