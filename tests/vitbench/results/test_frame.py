"""records.csv as a data frame: types, missing values, and what tells rows apart."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.vitbench.examples import ROOT, backbone_case, case, ceilings, environment, measured, plan
from vitbench.cases.case import Case
from vitbench.cases.row import case_of
from vitbench.errors import BadInput
from vitbench.results import frame
from vitbench.results.columns import COLUMN_NAMES, COLUMNS
from vitbench.results.csv import derive, write_csv
from vitbench.results.journal import Run
from vitbench.results.outcome import Failed, Outcome
from vitbench.results.record import build_record


def read_back(folder: Path, *pairs: tuple[Case, Outcome]) -> pd.DataFrame:
    """Rows of one-round runs through a CSV file."""
    run = Run(plan(*(one for one, _ in pairs), rounds=1), environment(), ceilings())
    run.outcomes = {(one.id, 0): outcome for one, outcome in pairs}
    derive(folder, run)
    return frame.read(folder)


def test_values_come_back(tmp_path: Path) -> None:
    """Every cell of the CSV file equals the record's, in its type; an empty one is missing."""
    pairs: list[tuple[Case, Outcome]] = [
        (case(), measured(0.01, 0.011, 0.012)),
        (case(cold=True), Failed("error", "NA")),
        (backbone_case(), measured()),
    ]
    rows = read_back(tmp_path, *pairs)
    cells = rows.to_dict("records")
    records = [build_record(one, [outcome], ceilings(), environment()) for one, outcome in pairs]
    for index, record in enumerate(records):
        for name in COLUMN_NAMES:
            value, found = record[name], cells[index][name]
            if value is None or value == "":
                assert pd.isna(found) or found == "", name
            elif isinstance(value, float):
                assert found == pytest.approx(value, rel=1e-8), name
            else:
                assert found == value, name


def test_rows_as_records(tmp_path: Path) -> None:
    """From a CSV file come the records that went in, to the digits a CSV file holds."""
    pairs: list[tuple[Case, Outcome]] = [
        (case(), measured(0.01, 0.011, 0.012)),
        (backbone_case(), Failed("error", "NA")),
    ]
    rows = read_back(tmp_path, *pairs)
    for found, (one, outcome) in zip(frame.records(rows), pairs, strict=True):
        wanted = build_record(one, [outcome], ceilings(), environment())
        assert {k: v for k, v in found.items() if v not in (None, "")} == {
            k: pytest.approx(v, rel=1e-8) if isinstance(v, float) else v
            for k, v in wanted.items()
            if v not in (None, "")
        }


@pytest.mark.parametrize("path", ["cpu-quick", "cpu-detection", "baseline/counts.csv"])
def test_rows_of_older_releases(path: str) -> None:
    """The committed reports have two columns where there is one now; ids and cases are as then."""
    records = frame.records(frame.read(ROOT / "reports" / path))
    assert {record["runtime"] for record in records} == {"eager"}
    assert [case_of(record).id for record in records] == [record["case"] for record in records]


def test_both_columns_of_older_releases_count(tmp_path: Path) -> None:
    """Their four combinations are four runtimes."""
    rows = read_back(tmp_path, *((case(dim=dim), measured()) for dim in (2, 4, 6, 8)))
    flags = {"compiled": [False, True] * 2, "cuda_graph": [False, False, True, True]}
    write_csv(
        tmp_path / "old.csv",
        (*(name for name in COLUMN_NAMES if name != "runtime"), *flags),
        [row | {k: v[i] for k, v in flags.items()} for i, row in enumerate(frame.records(rows))],
    )
    found = frame.read(tmp_path / "old.csv")["runtime"].tolist()
    assert found == ["eager", "compile", "cuda-graph", "compile+cuda-graph"]


def test_a_column_of_a_later_release_is_empty(tmp_path: Path) -> None:
    """A file of before it is read; without what makes a row a measurement it is not."""
    (row,) = frame.records(read_back(tmp_path, (case(), measured())))
    for name, empty in (("retries", None), ("fallback", ""), ("host_bound", None)):
        path = tmp_path / "older.csv"
        write_csv(path, [column for column in COLUMN_NAMES if column != name], [row])
        assert frame.records(frame.read(path)) == [row | {name: empty}]


def test_types() -> None:
    """A column with a unit is a number."""
    assert not [column.name for column in COLUMNS if column.unit and column.type == "text"]


def test_a_file_or_its_folder(tmp_path: Path) -> None:
    """The same rows either way."""
    rows = read_back(tmp_path, (case(), measured()))
    pd.testing.assert_frame_equal(frame.read(tmp_path / "records.csv"), rows)


def test_subject(tmp_path: Path) -> None:
    """The mechanism's or the backbone's name."""
    rows = read_back(tmp_path, (case(), measured()), (backbone_case(), measured()))
    assert rows["subject"].tolist() == ["msa", "tiny"]


def test_only_what_is_measured_is_drawn(tmp_path: Path) -> None:
    """Failures are rows, not figures."""
    rows = read_back(tmp_path, (case(), measured()), (case(dim=64), Failed("timeout", "3 s")))
    assert frame.measured(rows)["dim"].tolist() == [32]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is not a CSV file of records"),
        (b"a,b\n1,2\n", "it has no column 'case'"),
        (b"\xff\xfe\x00", "is not a CSV file of records"),
        (b'case\n"', "is not a CSV file of records"),
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
