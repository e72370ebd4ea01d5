"""The policy: what breaks it, what it exits with, and in which forms it says so."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vitbench.examples import case as a_case
from tests.vitbench.examples import environment, facts, measured, run_folder
from vitbench.__main__ import run
from vitbench.analysis import compare, gate
from vitbench.analysis.gate import Policy
from vitbench.cases import scalars
from vitbench.errors import BadInput
from vitbench.results.outcome import FAILURE_KINDS, Failed, FailureKind, Outcome
from vitbench.results.record import Record, build_record

QUIET = (0.0100, 0.01001, 0.00999, 0.0100, 0.01002)
CASES = (a_case(), a_case(attention="hilo", params=(("alpha", 0.9),)))


def rows(*factors: float, macs: int = 81920, peak: int = 40000) -> list[Record]:
    """Rows of the two cases, whose latencies are so many times the usual."""
    counts = facts(macs=macs, macs_counted=macs, peak_memory_bytes=peak)
    records = []
    for case, factor in zip(CASES, factors or (1.0, 1.0), strict=True):
        outcomes = [measured(*[factor * median] * 10, facts=counts) for median in QUIET]
        records.append(build_record(case, outcomes, None, environment()))
    return records


def failed(kind: str) -> list[Record]:
    """The second case did not run."""
    outcome = Failed(kind, "it would not")  # type: ignore[arg-type] # a parameter of tests
    return [rows()[0], build_record(CASES[1], [outcome], None, environment())]


def test_nothing_changed() -> None:
    """Passes, and says how many cases are the same."""
    result = gate.check(rows(), rows(), Policy())
    assert result.status == gate.PASSED
    assert result.sentence == "no regression (2 same)"


def test_a_regression_names_everything() -> None:
    """Status 3; the case, the ratio, the interval and the limit."""
    result = gate.check(rows(), rows(1.0, 1.3), Policy())
    assert result.status == gate.REGRESSION
    ((fault,),) = (one.faults for one in result.verdicts if one.faults)
    assert fault.startswith("hilo ")
    assert "1.300 times" in fault
    assert "95% interval" in fault
    assert "limit +10.0%" in fault


def test_limits_by_mechanism() -> None:
    """A mechanism's own limit replaces the common one."""
    policy = Policy.model_validate(
        {"max-slowdown": "5%", "attention": {"hilo": {"max-slowdown": 0.5}}}
    )
    assert gate.check(rows(), rows(1.0, 1.3), policy).status == gate.PASSED
    assert gate.check(rows(), rows(1.3, 1.0), policy).status == gate.REGRESSION


@pytest.mark.parametrize(
    ("name", "changes"), [("macs", {"macs": 90000}), ("peak_memory_bytes", {"peak": 50000})]
)
def test_exact_columns_need_no_statistics(name: str, changes: dict[str, int]) -> None:
    """Growth breaks the limit, which is nothing unless the policy says more; less is no fault."""
    grown = rows(**changes)
    result = gate.check(rows(), grown, Policy())
    assert result.status == gate.REGRESSION
    assert f"{name} grew from" in result.verdicts[0].faults[0]
    assert gate.check(grown, rows(), Policy()).status == gate.PASSED
    generous = Policy.model_validate({"max-macs": "30%", "max-memory": "30%"})
    assert gate.check(rows(), grown, generous).status == gate.PASSED


def test_memory_that_grows_on_an_accelerator_breaks_the_limit() -> None:
    """A tenth more is a fault there too, unless the policy allows it."""
    base, grown = (
        [row | {"device": "cuda"} for row in rows(peak=peak)] for peak in (10**9, 11 * 10**8)
    )
    result = gate.check(base, grown, Policy())
    assert result.status == gate.REGRESSION
    assert "peak_memory_bytes grew" in result.verdicts[0].faults[0]
    assert gate.check(base, grown, Policy(max_memory=0.11)).status == gate.PASSED


@pytest.mark.parametrize("kind", ["crashed", "out_of_memory", "timeout", "unsupported"])
def test_what_was_not_measured_never_passes(kind: str) -> None:
    """A case that failed, one that is gone, and a run of nothing: status 5."""
    every = rows()
    pairs = [(every, failed(kind)), (every, every[:1]), (every, []), ([], every), ([], [])]
    assert {gate.check(*pair, Policy()).status for pair in pairs} == {gate.NOTHING}


USUAL = gate.counted(rows())
WORDS = st.text() | st.sampled_from(["no candidate kernel found", "the base is to blame", ""])


@given(words=WORDS, kind=st.sampled_from(FAILURE_KINDS))
def test_no_word_of_a_message_decides_a_status(words: str, kind: FailureKind) -> None:
    """A case that fails on the base passes, one that fails on the candidate does not: whatever the
    message says, and whatever reason is put in the place of the verdict's own.
    """
    failure = [USUAL[0], build_record(CASES[1], [Failed(kind, words)], None, environment())]
    for base, candidate, status in (
        (failure, USUAL, gate.PASSED),
        (USUAL, failure, gate.NOTHING),
        (USUAL[:1], USUAL, gate.PASSED),
        (USUAL, USUAL[:1], gate.NOTHING),
    ):
        verdicts = compare.compare(base, candidate)
        assert gate.judge(verdicts, Policy()).status == status
        reworded = [dataclasses.replace(verdict, why=words) for verdict in verdicts]
        assert gate.judge(reworded, Policy()).status == status


def test_counts_that_could_not_be_read_are_not_the_same() -> None:
    """A candidate without what the base has is undecided, which passes only beside what is decided
    and where the policy is not strict. What the base does not have is not asked for."""
    every = rows()
    lacking = [every[0] | {"macs": None}, every[1]]
    for timed in (True, False):
        base, candidate = (every, lacking) if timed else map(gate.counted, (every, lacking))
        first, second = gate.check(base, candidate, Policy()).verdicts
        assert (first.word, first.why) == ("undecided", "the candidate has no macs")
        assert second.word == "same"
        assert gate.check(base, candidate, Policy()).status == gate.PASSED
        assert gate.check(base, candidate, Policy(strict=True)).status == gate.UNDECIDED
        assert gate.check(candidate, base, Policy(strict=True)).status == gate.PASSED
    bound = [every[0] | {"macs_is_lower_bound": True}, every[1]]
    first, _ = gate.check(every, bound, Policy()).verdicts
    assert (first.word, first.why) == ("undecided", "the candidate has no exact macs")
    assert gate.check(bound, bound, Policy(strict=True)).status == gate.PASSED
    nothing = [row | {"macs": None, "params": None, "peak_memory_bytes": None} for row in USUAL]
    assert gate.check(nothing, nothing, Policy()).status == gate.UNDECIDED


def test_strict() -> None:
    """An undecided case passes beside a decided one, but for a strict policy."""
    lone = [rows()[0], build_record(CASES[1], [measured()], None, environment())]
    assert gate.check(rows(), lone, Policy()).status == gate.PASSED
    assert gate.check(rows(), lone, Policy(strict=True)).status == gate.UNDECIDED


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("version", ["2.13", "2.99"])
def test_nothing_decided_is_no_pass(strict: bool, version: str) -> None:
    """All undecided, or all incomparable: status 4, and no word of a pass. Nor with a case that the
    base lacks."""
    machine = environment(torch={"version": version, "threads": 2})
    lone = [build_record(case, [measured()], None, machine) for case in CASES]
    for base in (rows(), rows()[:1]):
        result = gate.check(base, lone, Policy(strict=strict))
        assert result.status == gate.UNDECIDED
        assert result.sentence.startswith("nothing was decided (")


def test_what_fails_on_both_sides_never_passes() -> None:
    """Status 5, and both reasons; what neither side supports is no fault of the candidate's."""
    base, candidate = failed("crashed"), failed("wrong_output")
    result = gate.check(base, candidate, Policy())
    assert result.status == gate.NOTHING
    assert (
        result.verdicts[1].why
        == "base: crashed: it would not; candidate: wrong_output: it would not"
    )
    neither = gate.check(failed("unsupported"), failed("unsupported"), Policy())
    assert neither.status == gate.PASSED


@pytest.mark.parametrize(
    ("text", "value"),
    [("5%", 0.05), ("0.05", 0.05), ("12.5 %", 0.125), (0, 0.0), ("500%", 5.0), (1e-5, 1e-5)],
)
def test_shares(text: object, value: float) -> None:
    """A percentage or a number."""
    assert scalars.share(text) == value


@pytest.mark.parametrize("number", [1, 1.0, 5, "5", "100"])
def test_a_bare_number_of_one_or_more_is_refused(tmp_path: Path, number: object) -> None:
    """5 was taken for 500%, which lets every slowdown pass; both readings are named."""
    low, high = f"{float(str(number)):g}%", f"{100 * float(str(number)):g}%"
    with pytest.raises(ValueError, match=f"{number} may mean {low} or {high}: write one"):
        scalars.share(number)
    policy = tmp_path / "policy.toml"
    policy.write_text(f"max-slowdown = {number}\n")
    with pytest.raises(BadInput, match=f"max-slowdown: .* may mean {low} or {high}"):
        gate.read_policy(policy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('max-slowdown = "much"', "max-slowdown: a share is like 5%"),
        ("max-slowdwon = 1", "max-slowdwon: no such key; nearest: max-slowdown"),
        ("[attention.hilo]\nmax-mem = 1", "attention.hilo.max-mem: no such key; nearest: max-mem"),
        ("max-slowdown = -1", "max-slowdown"),
        ("max-slowdown = ", "not valid TOML"),
        ("tool = 3", "tool must be a table, got 3"),
        ("[tool]\nvitbench = 3", "vitbench must be a table, got 3"),
    ],
)
def test_a_broken_policy(tmp_path: Path, text: str, message: str) -> None:
    """One sentence that names the file and the key."""
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(BadInput, match="policy ") as error:
        gate.read_policy(path)
    assert message in str(error.value)


@pytest.mark.parametrize("key", ["chek", "checks", "baseline"])
def test_a_misspelt_table_of_a_project(tmp_path: Path, key: str) -> None:
    """[tool.vitbench] has the table check and no other."""
    path = tmp_path / "pyproject.toml"
    path.write_text(f'[tool.vitbench.{key}]\nmax-slowdown = "3%"\n')
    with pytest.raises(BadInput, match=rf"tool\.vitbench\.{key}: no such key; known: check"):
        gate.read_policy(path)


@pytest.mark.parametrize(("name", "hint"), [("hilo2", "nearest: hilo"), ("nosuch", "known: ")])
def test_limits_of_what_does_not_exist(
    here: Path, capsys: pytest.CaptureFixture[str], name: str, hint: str
) -> None:
    """One sentence, before anything is measured; the user's own that is judged exists."""
    good = str(written(here / "good"))
    (here / "pyproject.toml").write_text(f"[tool.vitbench.check.attention.{name}]\nmax-macs = 0\n")
    for words in (["check", good, good], ["check", good]):
        assert run(words) == 2
        error = capsys.readouterr().err
        assert f"policy pyproject.toml, attention.{name}: no mechanism or backbone has" in error
        assert hint in error
    mine = {a_case(attention=name): [measured()]}
    assert run(["check", good, str(run_folder(here / "mine", mine))]) != 2
    policy = Policy.model_validate({"attention": {"timm:anything": {}, "msa": {}, "litv2_s": {}}})
    gate.check_subjects(policy, here, [])


def test_a_policy_in_pyproject(tmp_path: Path) -> None:
    """[tool.vitbench.check]; a project without it has the usual limits."""
    path = tmp_path / "pyproject.toml"
    path.write_text('[tool.vitbench.check]\nmax-slowdown = "3%"\nstrict = true\n')
    assert gate.read_policy(path) == Policy.model_validate({"max-slowdown": 0.03, "strict": True})
    path.write_text("[project]\nname = 'x'\n")
    assert gate.read_policy(path) == Policy()
    with pytest.raises(BadInput, match="cannot be read"):
        gate.read_policy(tmp_path / "no.toml")


def written(folder: Path, factor: float = 1.0, kind: FailureKind | None = None) -> Path:
    """A run folder of the two cases."""
    good, other = ([measured(*[f * median] * 10) for median in QUIET] for f in (1.0, factor))
    second: list[Outcome] = [*other]
    if kind is not None:
        second = [Failed(kind, "no")] * 5
    return run_folder(folder, dict(zip(CASES, (good, second), strict=True)))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder without a policy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    return tmp_path


@pytest.mark.parametrize("limit", ["2%", "0.125"])
def test_a_table_shows_the_limit(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    limit: str,
) -> None:
    """As a percentage, whichever way it was written; in the summary too. Counts have none."""
    good, slow = str(written(here / "good")), str(written(here / "slow", 1.3))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    shown = {"2%": "+2.0%", "0.125": "+12.5%"}[limit]
    for words in (["compare"], ["check", "--github"]):
        run([*words, good, slow, "--max-slowdown", limit])
        rows = re.findall(rf"{re.escape(shown)} +(same|slower)", capsys.readouterr().out)
        assert rows == ["same", "slower"]
    assert (here / "summary.md").read_text().partition("```text")[2].count(shown) == 2
    run(["check", good, slow, "--untimed"])
    assert "+" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "summary", "status"),
    [("--junit no/j.xml", "", 2), ("--json no/r.json", "", 2), ("--github", "no/summary.md", 1)],
)
@pytest.mark.parametrize("command", ["check good", "ab good bad --plugin x.py"])
def test_a_report_that_cannot_be_written(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    words: str,
    summary: str,
    status: int,
) -> None:
    """Is found before anything is measured; reports that can be written are not begun."""
    written(here / "good")
    before = sorted(here.iterdir())
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", summary)
    assert run([*command.split(), *words.split()]) == status
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"{summary or words.split()[1]} cannot be written: No such file" in error
    assert (
        run([*command.split(), "--junit", "j.xml", "--threads", "5000", "--plugin", "no.py"]) == 2
    )
    assert sorted(here.iterdir()) == before


def test_a_report_that_fails_in_the_end(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1 and a sentence; the verdicts are shown all the same."""
    good = str(written(here / "good"))
    assert run(["check", good, good, "--junit", "/dev/full"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "vitbench: /dev/full cannot be written: No space left on device\n"
    assert "no regression (2 same)" in captured.out


def test_the_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Baseline, check and compare over real folders: exit statuses and what is printed."""
    good, slow = written(here / "good"), written(here / "slow", 1.3)
    assert run(["baseline", "update", str(good), "--out", "base.csv"]) == 0
    assert "base.csv and base.environment.json: 2 cases" in capsys.readouterr().out
    assert run(["check", "base.csv", str(good)]) == gate.PASSED
    assert "no regression (2 same)" in capsys.readouterr().out
    assert run(["check", "base.csv", str(slow)]) == gate.REGRESSION
    output = " ".join(capsys.readouterr().out.split())
    assert "regression in 1 of 2 cases" in output
    assert "1.300 times" in output
    assert run(["check", "base.csv", str(slow), "--max-slowdown", "50%"]) == gate.PASSED
    assert run(["check", "base.csv", str(written(here / "bad", kind="crashed"))]) == gate.NOTHING
    capsys.readouterr()
    assert run(["compare", str(good), str(slow)]) == 0
    output = capsys.readouterr().out
    assert "slower" in output
    assert "geometric mean of the latency ratios: 1.140" in output
    assert run(["compare", str(good), str(slow), "--json"]) == 0
    cases = json.loads(capsys.readouterr().out)
    assert [one["verdict"] for one in cases] == ["same", "slower"]


def test_forms_for_ci(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """JUnit, JSON, GitHub's annotations and the job's summary say the same."""
    good, slow = written(here / "good"), written(here / "slow", 1.3)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(here / "summary.md"))
    words = ["check", str(good), str(slow), "--github", "--junit", "j.xml", "--json", "r.json"]
    assert run(words) == gate.REGRESSION
    assert "::error title=vitbench::hilo " in capsys.readouterr().out
    suite = ElementTree.parse(here / "j.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    assert len(suite.findall("./testcase/failure")) == 1
    output = json.loads((here / "r.json").read_text())
    assert output["status"] == gate.REGRESSION
    assert output["cases"][1]["ratio"]["value"] == pytest.approx(1.3)
    summary = (here / "summary.md").read_text()
    assert "regression in 1 of 2 cases" in summary
    assert "o" in next(line for line in summary.splitlines() if line.startswith("hilo "))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("check no.csv good", "no.csv holds no records.csv"),
        ("check good no", "no holds no records.csv"),
        ("check good good --max-slowdown much", "5%"),
        ("check good good --policy no.toml", "no.toml cannot be read"),
        ("check good good --across thread", "thread"),
        ("check good good --junit no/j.xml", "no/j.xml cannot be written"),
        ("check broken.csv good", "broken.csv: it is not a CSV file of records"),
        ("check older.csv good", "was written by an older vitbench: it has no column 'torch'"),
        ("check good good --out here", "a RUN is given: nothing is measured"),
        ("compare good good --max-slowdown -1", "--max-slowdown"),
        ("baseline update bad", "no measured case"),
        ("baseline update good --out no/b.csv", "no/b.csv cannot be written"),
    ],
)
def test_bad_input(
    here: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    """One sentence and exit status 2; a baseline of an older schema names what it lacks."""
    written(here / "good")
    (here / "broken.csv").write_text("attention,throughput\nmsa,1\n")
    with (here / "good" / "records.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k != "torch"} for row in csv.DictReader(file)]
    with (here / "older.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (here / "bad").mkdir()
    (here / "bad" / "records.csv").write_bytes(
        (here / "good" / "records.csv").read_bytes().splitlines(keepends=True)[0]
    )
    assert run(words.split()) == 2
    assert message in capsys.readouterr().err
