"""Exports: each is read by a program of its own; names are text, failures no numbers."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import junitparser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pyarrow import parquet

from tests.docs import RUN
from tests.vitbench.examples import backbone_case, case, ceilings, environment, facts, measured
from tests.vitbench.render.export.readers import READERS, junit_tests, latex_rows, markdown_rows
from vitbench.__main__ import run
from vitbench.cases.row import name_of
from vitbench.errors import BadInput
from vitbench.render import export, text
from vitbench.render.export import Results
from vitbench.results import rows
from vitbench.results.columns import COLUMNS
from vitbench.results.outcome import Failed
from vitbench.results.record import Record, build_record

FORMATS = export.names()
# Those that have no place for rows without a time.
LEAVE_OUT = {name for name in FORMATS if not export.load(name).FORMAT.shows_failures}
HOSTILE = [
    "<script>alert(1)</script>",
    "=cmd()",
    "  =1+1",
    "@SUM(A1)",
    "\\input{x}",
    "say \"a\" & 'b' | c\\",
    "[x](javascript:y) `b` *c* _d_ ~~e~~ $f$ #12 https://evil.example www.evil.example",
    "\u202egnirts\u202c",
    "two\nlines\r\n\t\x00\x1b[31m",
    "x" * 200,
    "注意 \U0001f600 \udcff",
    "a--b---c ``d''",
]
_BASE = build_record(case(), [measured(), measured()], ceilings(), environment())
_FAILED = build_record(case(), [Failed("out_of_memory", "there was no room")])


def row(index: int, name: str = "msa", **changes: Any) -> Record:
    """A measured row of its own case."""
    return _BASE | {"case": f"{index:012x}", "attention": name} | changes


def failed(index: int, name: str = "msa", **changes: Any) -> Record:
    """A row without a time."""
    return _FAILED | {"case": f"{index:012x}", "attention": name} | changes


def exported(name: str, *records: Record) -> Mapping[str, bytes]:
    """The files of a format."""
    return export.render(Results(Path("absent/records.csv"), records), name)


def words(shown: str) -> str:
    """As all formats show it: some drop spaces at the ends, or more than one."""
    return " ".join(shown.split())


def test_every_format_is_read() -> None:
    """By a program that is not ours."""
    assert {*FORMATS} == {*READERS}


@pytest.mark.parametrize("name", FORMATS)
def test_a_committed_run(name: str) -> None:
    """Every measured case is there with its latency, to the digits that the format shows."""
    results = Results.read(RUN)
    shown = READERS[name](export.render(results, name))
    expected = sorted(float(str(record["latency_s"])) for record in results.records)
    times = sorted(seconds for _, seconds in shown if seconds is not None)
    for ours, theirs in zip(expected, times, strict=True):
        assert theirs == pytest.approx(ours, rel=0.05 if name == "pyperf" else 5e-3)
    names = {*results.names().values(), *(str(r["attention"]) for r in results.records)}
    assert {shown_name for shown_name, _ in shown} <= names


@pytest.mark.parametrize("name", FORMATS)
def test_failures_are_no_numbers(name: str) -> None:
    """They are shown without a time; two formats have no place for them."""
    shown = READERS[name](exported(name, row(1), failed(2), failed(3, status="unsupported")))
    assert [seconds is None for _, seconds in shown] == [False] + [True] * (
        0 if name in LEAVE_OUT else 2
    )


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=12, deadline=None)
@given(hostile=st.text(min_size=1, max_size=40))
def test_names_are_text(name: str, hostile: str) -> None:
    """Whatever they hold: a reader gets them back as they are shown, and no more rows than
    there are."""
    check_names(name, [hostile])


@pytest.mark.parametrize("name", FORMATS)
def test_hostile_names_are_text(name: str) -> None:
    """Also in messages, settings and the names of machines, and of rows that failed."""
    check_names(name, HOSTILE)


def check_names(name: str, hostile: list[str]) -> None:
    """A measured and a failed row for each."""
    records = []
    for index, bad in enumerate(hostile):
        own = {"settings": f"a={bad}", "device_name": bad, "trust_reasons": bad, "torch": bad}
        records += [row(2 * index, bad, **own)]
        records += [failed(2 * index + 1, bad, **own, message=bad)]
    shown = READERS[name](exported(name, *records))
    kept = records[::2] if name in LEAVE_OUT else records
    assert len(shown) == len(kept)
    for (got, _), record in zip(shown, kept, strict=True):
        subject = words(text.visible(str(record["attention"])))
        if name == "openmetrics":
            subject = words(str(record["attention"]).encode(errors="backslashreplace").decode())
        if name == "latex":
            subject = "".join(c if c <= "\u017f" else f"U+{ord(c):04X}" for c in subject)
        assert subject in words(got)


@settings(max_examples=100, deadline=None)
@given(hostile=st.one_of(st.text(max_size=30), st.sampled_from(HOSTILE)))
def test_one_line_in_reading_order(hostile: str) -> None:
    """What is shown holds no control character, none that turns the direction, and no line end."""
    shown = text.visible(hostile)
    assert "\n" not in shown
    assert all(char.isprintable() or char.isspace() for char in shown)
    assert text.visible("msa α=1 ≥") == "msa α=1 ≥"  # noqa: RUF001 - a letter of another script


@settings(max_examples=100, deadline=None)
@given(sign=st.sampled_from("=+-@\t\r\uff1d\uff0b\uff0d\uff20"), rest=st.text(max_size=10))
def test_no_cell_is_a_formula(sign: str, rest: str) -> None:
    """A text that begins as one gets an apostrophe; a number below zero stays a number."""
    data = exported("csv", row(1, sign + rest, message=f" =x{rest}", steal_share=-0.25))[""]
    (cells,) = csv.DictReader(io.StringIO(data.decode(), newline=""))
    assert cells["attention"].startswith("'")
    assert cells["message"].startswith("' =x")
    assert cells["steal_share"] == "-0.25"


def test_csv_is_read_back(tmp_path: Path) -> None:
    """vitbench reads its own export: the same rows."""
    path = tmp_path / "run.csv"
    export.write(export.render(Results.read(RUN), "csv"), path)
    assert rows.read(path) == rows.read(RUN)


def test_parquet_has_types_and_units() -> None:
    """Every column of records.csv, empty cells empty, with its unit and meaning."""
    data = exported("parquet", row(1), failed(2))[""]
    table = parquet.read_table(io.BytesIO(data))
    for column in COLUMNS:
        metadata = table.schema.field(column.name).metadata
        assert metadata == {b"unit": column.unit.encode(), b"meaning": column.meaning.encode()}
        assert table[column.name].to_pylist() == [row(1)[column.name], failed(2)[column.name]]


def test_bencher_has_intervals_and_ignores() -> None:
    """In nanoseconds; a row of trust D raises no alert; the schema refuses what it should."""
    data = json.loads(exported("bmf", row(1, trust="A"), row(2, trust="D"), failed(3))[""])
    good, bad, none = data
    assert not good.endswith("-bencher-ignore")
    assert bad.endswith("-bencher-ignore")
    assert data[none] == {}
    assert data[good]["latency"] == {
        "value": _BASE["latency_s"] * 1e9,  # type: ignore[operator] # a measured row
        "lower_value": _BASE["latency_low_s"] * 1e9,  # type: ignore[operator] # the same
        "upper_value": _BASE["latency_high_s"] * 1e9,  # type: ignore[operator] # the same
    }
    assert data[good]["peak-memory"] == {"value": 40000}


def test_names_fit_and_differ() -> None:
    """No name is longer than Bencher takes, and two cases that would be alike are not."""
    long = Results(Path("x"), [row(1, "x" * 2000), row(2, "x" * 2000), row(3), row(4)])
    names = list(long.names().values())
    assert len({*names}) == 4
    assert max(map(len, names)) <= 1024 - len("-bencher-ignore")
    assert names[2] == f"{name_of(row(3))} {3:012x}"


def test_github_benchmark_has_two_files() -> None:
    """Throughput where more is better; latency and memory where less is."""
    files = exported("github-benchmark", row(1))
    entries = {part: json.loads(data) for part, data in files.items()}
    units = {part: [entry["unit"] for entry in own] for part, own in entries.items()}
    assert units == {"-bigger": ["images/s"], "-smaller": ["ms", "MiB"]}
    assert entries["-bigger"][0]["value"] == _BASE["throughput_img_s"]
    assert "95% interval" in entries["-smaller"][0]["range"]


def test_openmetrics_says_what_failed() -> None:
    """In the info of each case; a gauge has a sample only where there is a figure."""
    data = exported("openmetrics", row(1), failed(2))[""].decode()
    families = {family.name: family for family in text_string_to_metric_families(data)}
    assert families["vitbench_latency_seconds"].unit == "seconds"
    assert len(families["vitbench_latency_seconds"].samples) == 1
    assert families["vitbench_published_top1_percent"].samples == []
    infos = [sample.labels for sample in families["vitbench_case"].samples]
    assert [info["status"] for info in infos] == ["measured", "out_of_memory"]
    assert infos[1]["message"] == "there was no room"


def test_pyperf_has_the_samples() -> None:
    """Of a run folder each sample in its round; of a CSV file alone the medians of the rounds."""
    import pyperf

    folder = pyperf.BenchmarkSuite.loads(exported_run("pyperf", RUN))
    alone = pyperf.BenchmarkSuite.loads(exported("pyperf", *rows.read(RUN))[""].decode())
    record = rows.read(RUN)[0]
    first, lone = folder.get_benchmarks()[0], alone.get_benchmarks()[0]
    assert first.get_nvalue() == record["samples"]
    assert first.get_nrun() == lone.get_nrun() == record["rounds"]
    assert first.median() == pytest.approx(record["latency_s"], rel=1e-6)
    assert lone.get_values() == tuple(map(float, str(record["round_medians"]).split()))
    with pytest.raises(BadInput, match="holds no measurement"):
        exported("pyperf", failed(1))


def exported_run(name: str, path: Path) -> str:
    """The only file of a format, of a run."""
    return export.render(Results.read(path), name)[""].decode()


def test_junit_counts_what_it_holds() -> None:
    """An error for what failed, skipped what could not run, with the reasons."""
    records = [row(1), failed(2), failed(3, status="unsupported", message="no such dtype")]
    data = exported("junit", *records)[""]
    suite = junitparser.JUnitXml.fromstring(data)
    assert (suite.tests, suite.errors, suite.skipped, suite.failures) == (3, 1, 1, 0)
    results = [test.result for test in junit_tests(data)]
    assert [[type(r).__name__ for r in own] for own in results] == [[], ["Error"], ["Skipped"]]
    assert results[1][0].message == "out_of_memory: there was no room"


def figures(index: int, name: str, seconds: float, width: float = 0.01, **changes: Any) -> Record:
    """A row with that latency and an interval of so much to both sides."""
    low, high = seconds * (1 - width), seconds * (1 + width)
    times = {"latency_s": seconds, "latency_low_s": low, "latency_high_s": high}
    rates = {"throughput_img_s": 2 / seconds, "throughput_low_img_s": 2 / high}
    return row(index, name, **times, **rates, throughput_high_img_s=2 / low, **changes)


def bold(text: str, title: str) -> list[str]:
    """The subjects whose figure in that column is bold."""
    index = latex_rows(text)[0].index(title)
    lines = [line.split(" & ") for line in text.splitlines() if line.endswith("\\\\")]
    return [cells[0] for cells in lines[1:] if "".join(cells[index:]).startswith("\\textbf")]


def test_latex_marks_the_best() -> None:
    """Of each setting; what noise does not tell from it too. Trust D is marked and never best."""
    records = [
        figures(1, "a", 0.010),
        figures(2, "b", 0.0101),
        figures(3, "c", 0.020),
        figures(4, "d", 0.001, trust="D"),
        figures(5, "a", 0.5, batch_size=16),
        figures(6, "b", 0.1, batch_size=16),
        failed(7, "a", batch_size=32),
    ]
    table = exported("latex", *records)[""].decode()
    assert bold(table, "Latency (ms)") == ["a", "b", "b"]
    assert bold(table, "Throughput (images/s)") == ["a", "b", "b"]
    assert bold(table, "MACs (M)") == []  # all are equal
    assert "1.00\\textsuperscript{\\textdagger}" in table
    assert table.count("\\midrule") == 3
    assert "\\emph{out of memory}" in table


def test_top1_is_called_published() -> None:
    """In the tables that people read, with what must be said; a layer's cell is empty."""
    model = build_record(
        backbone_case(), [measured(facts=facts()), measured(facts=facts())], ceilings()
    ) | {"backbone": "resnet50", "case": f"{9:012x}"}
    rows_of_latex = latex_rows(exported("latex", row(1), model)[""].decode())
    column = rows_of_latex[0].index("Top-1, published (%)")
    assert [cells[column] for cells in rows_of_latex[1:]] == ["", "80.4*"]
    shown = exported("markdown", row(1), model)[""].decode()
    head, layer, whole = markdown_rows(shown)
    column = head.index("top-1 %, published")
    assert (layer[column], whole[column]) == ("", "80.4 †")
    assert "published at 224 px, measured here at 64 px" in shown


class Counting(dict[str, Any]):
    """A row that counts how often its cells are read."""

    reads = 0

    def __getitem__(self, name: str) -> Any:
        Counting.reads += 1
        return super().__getitem__(name)


@pytest.mark.parametrize("name", FORMATS)
def test_work_is_linear_in_rows(name: str) -> None:
    """Four times the rows are read four times as often."""

    def reads(count: int) -> int:
        Counting.reads = 0
        subjects = ("msa", "hilo", "sra")
        rows = [row(i, subjects[i % 3], batch_size=1 + i) for i in range(count)]
        exported(name, *map(Counting, rows))
        return Counting.reads

    assert 0 < reads(400) <= 4.2 * reads(100)


def test_bad_words_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A format that is not there, a package that is not, two files or no text without a name, a
    folder that is none; nothing is written."""
    asked = [
        (["--format", "latx"], "no format is called 'latx'; nearest: latex"),
        (["--format", "parquet"], "--out NAME.parquet"),
        (["--format", "github-benchmark"], "--out NAME.json"),
        (["--format", "csv", "--out", str(tmp_path / "a" / "b.csv")], "cannot be written"),
    ]
    for options, sentence in asked:
        assert run(["export", str(RUN), *options]) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert run(["export", str(RUN), "--format", "parquet"]) == 2
    assert "--format parquet needs pyarrow: pip install 'vitbench[export]'" in (
        capsys.readouterr().err
    )
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A text is printed in UTF-8; --out names the file, or what two files are called after."""
    assert run(["export", str(RUN), "--format", "markdown"]) == 0
    assert "±".encode() in capfdbinary.readouterr().out
    out = tmp_path / "bench.json"
    assert run(["export", str(RUN), "--format", "github-benchmark", "--out", str(out)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bench-bigger.json",
        "bench-smaller.json",
    ]
    assert math.isfinite(json.loads((tmp_path / "bench-bigger.json").read_text())[0]["value"])
