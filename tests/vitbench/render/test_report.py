"""The report without a browser: what the page and the summary hold, and what they never do."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import synthetic_records as synthetic
from tests.vitbench.examples import ROOT, backbone_case, case, measured, read_csv, run_folder, state
from vitbench.__main__ import run
from vitbench.errors import BadInput
from vitbench.render import report
from vitbench.render.report import data, sources
from vitbench.results.columns import COLUMN_NAMES
from vitbench.results.outcome import Failed, Outcome
from vitbench.results.samples import read as read_samples

REPORTS = ROOT / "reports"
EVIL = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "=cmd()",
    "\"quoted\" & 'so'",
    "\u202egnp.exe",
    "x" * 200,
    "{{ 7 * 7 }}",
)


def data_of(page: str) -> dict[str, Any]:
    """The rows that a page holds."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    content: dict[str, Any] = json.loads(text)
    return content


def values(packed: Any, count: int) -> list[Any]:
    """The values of a packed column, as the page's script reads them."""
    if "same" in packed:
        return [packed["same"]] * count
    return packed["all"] if "all" in packed else [packed["of"][index] for index in packed["at"]]


@pytest.mark.parametrize("name", [path.parent.name for path in REPORTS.glob("*/records.csv")])
def test_a_page_has_every_value_of_the_csv(name: str, tmp_path: Path) -> None:
    """Of runs of older releases too: each cell of records.csv is in the page, and every sample of
    samples.csv to a ten-thousandth of the latency."""
    page, _ = report.write([REPORTS / name], tmp_path / "report.html")
    content = data_of(page.read_text(encoding="utf-8"))
    rows = read_csv(REPORTS / name / "records.csv")
    assert content["rows"] == len(rows)
    for column in content["columns"]:
        if column["name"] not in rows[0]:
            continue
        for value, row in zip(
            values(content["values"][column["name"]], len(rows)), rows, strict=True
        ):
            text = row[column["name"]]
            if column["type"] in ("int", "float"):
                assert value == (float(text) if text else None), column["name"]
            else:
                assert str("" if value is None else value).lower() == text.lower()
    samples = read_samples(REPORTS / name)
    for packed, row in zip(content["samples"], rows, strict=True):
        if not row["latency_s"]:  # it was not measured
            assert not packed
            continue
        unit = float(row["latency_s"]) / content["parts"]
        for own, theirs in zip(packed, samples[row["case"]], strict=True):
            assert [part * unit for part in own] == pytest.approx(theirs, abs=unit)


def test_what_a_page_loads() -> None:
    """Nothing: no address of another file stands in the page's own parts."""
    folder = ROOT / "vitbench" / "render" / "report"
    own = "".join((folder / name).read_text() for name in ("report.html.j2", "report.css"))
    assert not re.search(r"https?:|//[a-z]|src=(?!.data:)|@import|url\(", own)
    script = (folder / "report.js").read_text()
    assert not re.search(
        r"https?:|fetch\(|XMLHttpRequest|import\(|innerHTML|insertAdjacent", script
    )


@pytest.mark.parametrize("name", EVIL)
def test_names_are_text(name: str, tmp_path: Path) -> None:
    """A name that is markup, a formula or a template ends no element and starts none."""
    other = case(attention=name, params=(("kernel", name.split()[0]),))
    folder = run_folder(
        tmp_path / "run",
        {
            other: [measured(0.02)],
            case(): [measured()],
            backbone_case(): [Failed("error", f"{name} failed")],
        },
    )
    page, summary = report.write([folder])
    html, markdown = page.read_text(encoding="utf-8"), summary.read_text(encoding="utf-8")
    content = data_of(html)
    assert name in values(content["values"]["subject"], content["rows"])
    outside, _, rest = html.partition('<script type="application/json"')
    assert rest.partition("</script>")[2].startswith("\n<script>// The page's behaviour")
    for sign in ("<script>alert", "<img", "\u202e", ">49<"):
        assert sign not in outside
        assert sign not in markdown


def test_thinned_samples_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where samples are too many for a page, each case keeps every n-th, and the page says so."""
    folder = run_folder(
        tmp_path / "run",
        {case(): [measured(*([0.01] * 90))] * 2, case(batch_size=1): [measured(*([0.02] * 10))]},
    )
    monkeypatch.setattr(data, "_MOST_SAMPLES", 100)
    content = data.packed(sources.read([folder]))
    assert content["every"] == {0: 4}
    assert [len(own) for own in content["samples"][0]] == [23, 23]
    assert [len(own) for own in content["samples"][1]] == [10]


def test_the_fastest_stands_first(tmp_path: Path) -> None:
    """The page's first table names the fastest of each resolution and runtime, and those that are
    not told from it; rows of trust D and failures are no answer."""

    def rounds(seconds: float) -> list[Outcome]:
        return [measured(seconds * factor) for factor in (1, 1.03, 0.98)]

    folder = run_folder(
        tmp_path / "run",
        {
            case(): rounds(0.03),
            case(attention="sra", params=()): rounds(0.01),
            case(attention="pooling", params=()): rounds(0.0102),
            case(runtime="openvino"): rounds(0.01),
            case(runtime="openvino", attention="sra", params=()): rounds(0.03),
            case(runtime="openvino", attention="pooling", params=()): [Failed("error", "lost")],
        },
    )
    page, summary = report.write([folder])
    told = summary.read_text()
    assert "- In eager, sra leads at 64 px; others come too close to be sure." in told
    assert "- In openvino, msa is the fastest at 64 px." in told
    assert "| 64 | sra, 200 images/s | msa, 200 images/s |" in told
    table = page.read_text().partition("<table")[2].partition("</table>")[0]
    plain = re.sub(r"<[^>]*>|\s+", " ", table)
    assert re.search(
        r"64 sra 200 images/s close: pooling msa 200 images/s", " ".join(plain.split())
    )
    assert "lost" in page.read_text().partition('id="failures"')[2]


def test_the_fastest_may_be_trusted(tmp_path: Path) -> None:
    """Where any row of a cell may be; a row of a busy machine answers only where there is none."""
    disturbed = measured(0.01, state=state(contended_cores=1.0))
    rows = {case(): [measured(0.03)] * 3, case(attention="sra", params=()): [disturbed] * 3}
    _, summary = report.write([run_folder(tmp_path / "some", rows)])
    assert "| 64 | msa," in summary.read_text()
    rows = {one: [disturbed] * 3 for one in rows}
    _, summary = report.write([run_folder(tmp_path / "none", rows)])
    assert "200 images/s |" in summary.read_text()


def test_what_is_not_trusted_makes_nothing_certain(tmp_path: Path) -> None:
    """A row of trust D does not lead, and where it may be as fast, the lead is not certain."""
    wild = [measured(*([0.001] * 10)), measured(*([0.1] * 10))]
    folder = run_folder(
        tmp_path / "run",
        {
            case(): [measured(0.01)] * 2,
            case(attention="sra", params=()): wild,
            case(runtime="openvino"): wild,
            case(runtime="openvino", attention="sra", params=()): wild,
        },
    )
    page, summary = report.write([folder])
    assert (
        "- In eager, msa leads at 64 px; others come too close to be sure." in summary.read_text()
    )
    assert "- In openvino, no row can be trusted." in summary.read_text()
    assert "only rows of trust D" in page.read_text()


def test_a_file_of_others_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither by the page nor by the summary; one of ours is."""
    folder = run_folder(tmp_path / "run", {case(): [measured()]})
    assert run(["report", str(folder)]) == 0
    assert run(["report", str(folder)]) == 0
    for name in ("mine.html", "summary.md"):
        (tmp_path / name).write_text("my own words on vitbench")
        capsys.readouterr()
        out = tmp_path / ("report.html" if name == "summary.md" else name)
        assert run(["report", str(folder), "-o", str(out)]) == 2
        assert "did not write it: choose another --out" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "my own words on vitbench"
        (tmp_path / name).unlink()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-o", "report.txt"], "a report is a file such as report.html, got 'report.txt'"),
        (["-o", "no/such/report.html"], "no/such/report.html cannot be written"),
        (["run"], "--out says where the report of several runs goes"),
    ],
)
def test_refusals(
    words: list[str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One sentence and status 2; nothing is written."""
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path / "run", {case(): [measured()]})
    before = sorted(tmp_path.rglob("*"))
    assert run(["report", "run", *words]) == 2
    assert expected in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_samples_are_refused(tmp_path: Path) -> None:
    """One sentence names the file."""
    folder = run_folder(tmp_path / "run", {case(): [measured()]})
    (folder / "samples.csv").write_text("case,round,sample,latency_s\na,0,0,soon\n")
    with pytest.raises(BadInput, match=r"samples.csv is not a CSV file of samples"):
        report.write([folder])


def test_records_alone_make_a_page(tmp_path: Path) -> None:
    """Without samples, environment and plan, what is there is shown."""
    folder = run_folder(tmp_path / "run", {case(): [measured()]})
    only = tmp_path / "records-only.csv"
    only.write_bytes((folder / "records.csv").read_bytes())
    page, _ = report.write([only], tmp_path / "report.html")
    content = data_of(page.read_text())
    assert content["samples"] == [None]
    assert content["names"] == list(COLUMN_NAMES)


def test_the_machine_says_what_it_means_for_int8(tmp_path: Path) -> None:
    """In its table, where the run listed the CPU's instructions."""
    folder = run_folder(tmp_path / "run", {case(): [measured()]})
    sentence = "weights keep 7 bits, and int8 gains little"
    for instructions, is_told in (([], True), (["amx_int8"], False)):
        file = {"environment": {"cpu": {"int8_instructions": instructions}}}
        (folder / "environment.json").write_text(json.dumps(file))
        page, _ = report.write([folder])
        assert (sentence in page.read_text()) is is_told


def test_two_runs_have_their_names(tmp_path: Path) -> None:
    """Folders of one name are told apart by their parents."""
    folders = []
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        folders.append(run_folder(tmp_path / parent / "run", {case(): [measured()]}))
    assert [one.name for one in sources.read(folders)] == ["a/run", "b/run"]


def test_view_opens_the_newest_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of reports/, written where it is missing; without a browser a sentence and status 1."""
    monkeypatch.chdir(tmp_path)
    assert run(["view"]) == 2
    assert "reports holds no run" in capsys.readouterr().err
    (tmp_path / "reports").mkdir()
    for age, name in enumerate(("older", "newer")):
        folder = run_folder(tmp_path / "reports" / name, {case(): [measured()]})
        os.utime(folder / "records.csv", (1e9 + age, 1e9 + age))
    opened: list[str] = []

    def keep(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", keep)
    assert run(["view"]) == 0
    page = tmp_path / "reports" / "newer" / "report.html"
    assert opened == [page.resolve().as_uri()]
    assert page.exists()
    monkeypatch.setattr("webbrowser.open", lambda address: False)
    assert run(["view", str(page)]) == 1
    assert "no browser was found" in capsys.readouterr().err


def test_a_report_needs_no_torch(tmp_path: Path) -> None:
    """It is written on a laptop without torch."""
    folder = run_folder(tmp_path / "run", {case(): [measured()]})
    code = (
        "import sys; sys.modules['torch'] = None; from vitbench.__main__ import run; "
        f"sys.exit(run(['report', {str(folder)!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert (folder / "report.html").exists()


def test_runs_are_compared_with_the_first(tmp_path: Path) -> None:
    """A page of two runs says which of their cases became slower, and by how much; runs of two
    machines too, with what they differ in."""
    noise = [1 + 0.001 * (number % 5) for number in range(20)]
    folders = []
    for name, factor in (("before", 1.0), ("after", 1.5)):
        rounds = [
            [
                measured(*(0.01 * drift * f * sample for sample in noise))
                for drift in (1, 1.002, 1.004)
            ]
            * 2
            for f in (factor, 1.0)
        ]
        folders.append(
            run_folder(
                tmp_path / name,
                {case(): rounds[0], case(batch_size=4): rounds[1]},
                device_name=f"{name}, 2 threads",
            )
        )
    page, summary = report.write(folders, tmp_path / "report.html")
    assert "after against before: 1 slower, 1 same" in summary.read_text()
    part = page.read_text().partition('id="versus"')[2].partition("</section>")[0]
    assert "The runs differ in device name." in part
    assert re.search(r'<td class="figure">1.500</td>.*?<td class="slower"', part, re.S)


def test_published_accuracy_is_marked(tmp_path: Path) -> None:
    """A model has the top-1 that others published, with its source; a layer has none."""
    model = backbone_case(image_height=224, image_width=224)
    model = dataclasses.replace(model, backbone="resnet50")
    folder = run_folder(tmp_path / "run", {model: [measured()], case(): [measured()]})
    content = data.packed(sources.read([folder]))
    top1, none = values(content["values"]["published_top1"], 2)
    assert 70 < top1 < 90
    assert none is None
    (column,) = (one for one in content["columns"] if one["name"] == "published_top1")
    assert column["title"] == "published top-1"
    assert "not measured here" in column["meaning"]
    assert values(content["values"]["published_checkpoint"], 2)[0]


def test_a_summary_fits_a_comment(tmp_path: Path) -> None:
    """On GitHub a comment holds 65,536 characters; what is left out is counted."""
    folder = synthetic.folder(tmp_path / "run", synthetic.many(3000))
    _, summary = report.write([folder])
    text = summary.read_text()
    assert len(text) < 65_536
    assert re.search(r"^\d+ more settings are in the report.$", text, re.M)
    assert re.search(r"^\d+ more groups of findings are in the report.$", text, re.M)
