"""The command as a user meets it: what it writes, and what it answers to mistakes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import attentions
import vitbench
from tests.vitbench import examples
from tests.vitbench.examples import (
    PLUGIN,
    ROOT,
    backbone_case,
    case,
    ceilings,
    environment,
    measured,
    plan,
    plugin,
    read_csv,
)
from vitbench.__main__ import run
from vitbench.cases import suite
from vitbench.cases.calibration import Calibration
from vitbench.cases.plan import Plan
from vitbench.cli.run import outlook
from vitbench.engine import runner
from vitbench.errors import StorageFull
from vitbench.results import journal
from vitbench.results.columns import COLUMN_NAMES, COLUMNS, EXACT_COLUMNS
from vitbench.results.csv import derive
from vitbench.results.journal import Run
from vitbench.results.outcome import Failed, Outcome

_LAYER = "--attention msa --resolution 32 --dim 32 --heads 2 --batch-size 1"
_TIME = "--rounds 1 --effort quick --cap 0.05 --min-time 0.01 --warmup 0.01 --threads 1"
TINY = ["run", "--device", "cpu", *_LAYER.split(), *_TIME.split()]

CHOOSY = PLUGIN.replace(
    "ATTENTION = AttentionSpec(module=Identity)",
    """def unsupported(dim, num_heads, grid, *, strength=1.0):
    return "it needs a map of 3 x 3 tokens or more" if grid.height < 3 else None


ATTENTION = AttentionSpec(module=Identity, unsupported=unsupported)""",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command ended with."""

    status: int
    out: str
    err: str


def command(*words: str, cwd: Path, **environment: str) -> Answer:
    """The real command, in a process of its own."""
    done = examples.vitbench(cwd, *words, **environment)
    return Answer(done.returncode, done.stdout, done.stderr)


Vitbench = Callable[..., Answer]


@pytest.fixture
def vitbench_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Vitbench:
    """The command without a process of its own, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Answer:
        capsys.readouterr()
        status = run(list(words))
        captured = capsys.readouterr()
        return Answer(status, captured.out, captured.err)

    return call


def check_refusal(answer: Answer, *words: str) -> None:
    """One sentence on stderr, exit status 2, no traceback."""
    assert answer.status == 2, answer
    assert answer.err.count("\n") == 1, answer.err
    assert answer.err.startswith("vitbench: ")
    assert "Traceback" not in answer.err + answer.out
    for word in words:
        assert word in answer.err


REFUSED = [
    ("--attention hillo", ["'hillo'", "nearest: hilo"]),
    ("--attention msa,zzzz", ["'zzzz'", "known:", "sra"]),
    ("--attention msa,", ["commas"]),
    ("--device gpu", ["'gpu'", "nearest: xpu, cpu"]),
    ("--device cuda:x", ["'cuda:x'"]),
    ("--dtype float23", ["'float23'", "nearest: float32"]),
    ("--dtype fp31", ["'fp31'", "float32"]),
    ("--impl fuse", ["'fuse'", "fused"]),
    ("--mode train", ["'train'", "forward_backward"]),
    ("--effort quik", ["'quik'", "quick"]),
    ("--dim 30 --heads 4", ["divisible", "dim 30", "4 heads"]),
    ("--dim 32,33 --heads 2,3", ["divisible"]),
    ("--resolution 8", ["8", "stride 16"]),
    ("--resolution 64x15", ["64x15", "stride 16"]),
    ("--resolution 64 --stride 65", ["64", "stride 65"]),
    ("--resolution 0", ["'0'", "224 or 800x1280"]),
    ("--resolution=-5", ["'-5'"]),
    ("--resolution 10x", ["'10x'"]),
    ("--dim 0", ["dim", "at least 1", "got 0"]),
    ("--dim=-32", ["dim", "-32"]),
    ("--heads 0", ["at least 1", "got 0"]),
    ("--batch-size 0", ["batch_size", "got 0"]),
    ("--batch-size=-1", ["batch_size", "-1"]),
    ("--stride 0", ["stride", "got 0"]),
    ("--dim big", ["--dim", "'big'"]),
    ("--dim 1.5", ["--dim", "'1.5'"]),
    ("--runtime egaer", ["'egaer'", "nearest: eager"]),
    ("--runtime cuda-graph", ["CUDA", "cpu"]),
    ("--compile true", ["--compile is now --runtime compile"]),
    ("--cuda-graph=true", ["--cuda-graph is now --runtime cuda-graph"]),
    ("--rounds 0", ["rounds", "0"]),
    ("--rounds many", ["rounds"]),
    ("--threads 0", ["threads"]),
    ("--threads 5000", ["--threads 5000", "core"]),
    ("--timeout 0", ["timeout"]),
    ("--timeout nan", ["timeout"]),
    ("--timeout inf", ["timeout"]),
    ("--cap=-1", ["cap_s"]),
    ("--cap nan", ["cap_s"]),
    ("--noise 0", ["target_noise"]),
    ("--min-samples 0", ["min_samples"]),
    ("--min-time inf", ["min_s"]),
    ("--param msa", ["NAME.KEY=VALUES", "'msa'"]),
    ("--param msa.qkv_bias", ["NAME.KEY=VALUES"]),
    ("--param qkv_bias=true", ["NAME.KEY=VALUES"]),
    ("--param msa.=true", ["NAME.KEY=VALUES"]),
    ("--param .qkv_bias=true", ["NAME.KEY=VALUES"]),
    ("--param msa.qkv_bias=", ["commas"]),
    ("--param msa.bias=true", ["no parameter 'bias'", "qkv_bias"]),
    ("--param msa.qkv_bias=maybe", ["true or false", "'maybe'"]),
    ("--param sra.sr_ratio=2", ["sra", "not among"]),
    ("--attention hilo --param hilo.alpha=nan", ["alpha"]),
    ("--memory-limit much", ["8GiB", "'much'"]),
    ("--memory-limit 8GiBs", ["'8GiBs'"]),
    ("--memory-limit inf", ["'inf'"]),
    ("--memory-limit=-1GiB", ["memory"]),
    ("--memory-limit 0", ["memory"]),
    ("--memory-limit 1KB", ["--memory-limit", "at least 1.5GiB", "got 1000 bytes"]),
    ("--noise 5", ["--noise", "5% or 500%"]),
    ("--warmup-agree much", ["--warmup-agree", "'much'"]),
    ("--budget soon", ["10m", "'soon'"]),
    ("--budget 0s", ["longer than nothing"]),
    ("--budget=-5", ["'-5'"]),
    ("--budget 2s", ["a budget of 2 s", "it takes at least"]),
    ("--budget 10m --cap 3", ["--budget", "--cap", "not both"]),
    ("--budget 30s --rounds 50", ["in 50 rounds", "it takes at least"]),
    ("--budget 10m --effort quik", ["'quik'", "quick"]),
    ("--plugin no.py", ["no.py", "not a file"]),
    ("--backbone litv9", ["'litv9'"]),
    ("--nonsense", ["--nonsense"]),
    ("quik", ["'quik'", "nearest: quick"]),
    ("no.toml", ["no.toml", "cannot be read"]),
]


@pytest.mark.parametrize(("words", "expected"), REFUSED, ids=[words for words, _ in REFUSED])
def test_bad_input(
    vitbench_here: Vitbench, tmp_path: Path, words: str, expected: list[str]
) -> None:
    """One sentence that names what was given and what would do; exit status 2; nothing written."""
    small = ["--resolution", "64"] if "--resolution" not in words else []
    named = [] if "--attention" in words or "--backbone" in words else ["--attention", "msa"]
    device = [] if "--device" in words else ["--device", "cpu"]
    check_refusal(
        vitbench_here("run", *device, *named, *small, "--out", "out", *words.split()), *expected
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_budget_is_kept(
    vitbench_here: Vitbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: bool
) -> None:
    """Its rounds are planned and told, and so is the precision that it bought."""
    if not real:
        carried_out(monkeypatch, [measured()])
    words = "--attention msa --resolution 32 --dim 32 --heads 2 --batch-size 1 --device cpu"
    answer = vitbench_here("run", *words.split(), "--quiet", "--budget", "30s", "--out", "out")
    assert answer.status == 0
    assert "at most 30 s" in answer.out
    assert "precision within the budget of 30 s: medians are known to " in answer.out
    done = journal.read(tmp_path / "out")
    assert done.plan.budget_s == 30
    assert done.plan.rounds >= 2
    assert real <= len(done.outcomes) <= done.plan.rounds  # fewer where the machine became slower


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--attention hillo", ["nearest: hilo"]),
        ("--dtype float23", ["nearest: float32"]),
        ("--device gpu", ["nearest: xpu, cpu"]),
        ("--dim 30 --heads 4", ["divisible"]),
        ("nosuite", ["known: "]),
        # This one needs a worker process.
        ("--device cuda", ["this machine has no CUDA device", "--device cpu"]),
    ],
)
def test_bad_input_through_the_real_command(
    tmp_path: Path, words: str, expected: list[str]
) -> None:
    """The same with its own process: status, streams, and the folder as it was."""
    answer = command("run", *words.split(), cwd=tmp_path, CUDA_VISIBLE_DEVICES="")
    check_refusal(answer, *expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", ["file/run", "file/a/b", "/proc/nothing/run", "x" * 300])
def test_an_unwritable_folder(vitbench_here: Vitbench, tmp_path: Path, out: str) -> None:
    """Below a file, where no folder can be made, or of too long a name."""
    (tmp_path / "file").touch()
    check_refusal(vitbench_here(*TINY, "--out", out), out)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('title = "t"\n[axes]\natention = "msa"\n', ["line 3", "axes.atention", "attention"]),
        ('title = "t"\n[axes]\nattention = "msa"\ndim = "wide"\n', ["line 4", "axes.dim"]),
        ('title = "t"\n[axes\n', ["line 2"]),
        ('title = "t"\n[axes]\nattention = "hillo"\n', ["'hillo'", "hilo"]),
        ('[axes]\nattention = "msa"\n', ["title"]),
    ],
)
def test_a_malformed_suite(
    vitbench_here: Vitbench, tmp_path: Path, text: str, expected: list[str]
) -> None:
    """Line and key are named."""
    (tmp_path / "mine.toml").write_text(text)
    check_refusal(vitbench_here("run", "mine.toml", "--device", "cpu"), *expected)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.toml"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("nonsense", "nonsense"),
        ("list --sweets", "--sweets"),
        ("plot", "runs"),
        ("plot no", "no holds no records.csv"),
        ("run --dim", "--dim"),
        ("run quick extra", "extra"),
        ("plot " + "x" * 300, "xxx"),
        ("run --device cpu --plugin " + "x" * 300, "xxx"),
        ("run --resume no", "no holds no run"),
        ("run --resume " + "x" * 300, "xxx"),
        ("run quick --resume no", "does not go with suite: a resumed run keeps its own plan"),
        ("run --resume no --dim 64", "does not go with --dim: a resumed run keeps its own plan"),
        ("run --resume no --quiet --untimed --out a", "does not go with --untimed, --out: a"),
        ("run " + "x" * 300 + ".toml", "xxx"),
    ],
)
def test_misspelt_commands(vitbench_here: Vitbench, words: str, expected: str) -> None:
    """Unknown commands and options, missing and spare arguments."""
    check_refusal(vitbench_here(*words.split()), expected)


def test_no_arguments_is_help(vitbench_here: Vitbench) -> None:
    """The commands, and no sentence without words."""
    answer = vitbench_here()
    assert "Commands" in answer.out + answer.err
    assert "vitbench: \n" not in answer.err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the real runs take place; it holds a plugin that refuses small maps."""
    made = tmp_path_factory.mktemp("work")
    plugin(made, "choosy", CHOOSY)
    return made


def real_run(folder: Path, out: str) -> Answer:
    """Two mechanisms at two resolutions."""
    words = TINY.copy()
    words[words.index("msa")] = "msa,choosy"
    words[words.index("32")] = "32,64"
    return command(*words, "--plugin", "choosy.py", "--out", out, cwd=folder)


@pytest.fixture(scope="module")
def first(folder: Path) -> Answer:
    """A real run."""
    return real_run(folder, "first")


@pytest.fixture
def vitbench_there(
    vitbench_here: Vitbench, folder: Path, first: Answer, monkeypatch: pytest.MonkeyPatch
) -> Vitbench:
    """The command without a process of its own, where that run took place."""
    monkeypatch.chdir(folder)
    return vitbench_here


@pytest.fixture(scope="module")
def by_case(folder: Path, first: Answer) -> dict[tuple[str, str], dict[str, str]]:
    """The rows of the real run, by mechanism and height."""
    rows = read_csv(folder / "first" / "records.csv")
    return {(row["attention"], row["image_height"]): row for row in rows}


def test_a_real_run(folder: Path, first: Answer) -> None:
    """A table, a summary and the paths, which exist; status 0."""
    assert first.status == 0, first.err
    assert first.err == ""
    assert "3 of 4 cases measured" in first.out
    named = [line for line in first.out.splitlines() if line.startswith("first/")]
    assert {"first/records.csv", "first/samples.csv", "first/plots/overview.png"} <= set(named)
    assert all((folder / path).is_file() for path in named)
    written = sorted(path.name for path in (folder / "first").iterdir())
    files = {"environment.json", "journal.jsonl", "records.csv", "samples.csv"}
    assert {*written} == files | {"plots", "report.html", "summary.md"}
    for chart in ("throughput-bars", "throughput", "macs", "peak-memory", "overview"):
        for suffix in ("png", "pdf"):
            assert (folder / "first" / "plots" / f"{chart}.{suffix}").stat().st_size > 1000


def test_its_rows(by_case: dict[tuple[str, str], dict[str, str]]) -> None:
    """The columns of record.COLUMNS; every figure that a CPU can have; exact counts."""
    row = by_case["msa", "64"]
    assert tuple(row) == COLUMN_NAMES
    assert row["status"] == "measured"
    assert int(row["macs"]) == 4 * 16 * 32**2 + 2 * 16**2 * 32
    assert int(row["params"]) == 4 * 32**2 + 4 * 32
    assert row["macs_source"] == "closed form"
    assert row["checked_against"] == "eager float64"
    assert float(row["latency_s"]) > 0
    assert float(row["roofline_fraction"]) > 0
    assert float(row["throughput_img_s"]) == pytest.approx(1 / float(row["latency_s"]), rel=1e-6)
    assert row["trust"] in "ABCD"
    # A weight of 32 x 32 and its bias, counted without a closed form.
    mine = by_case["choosy", "64"]
    assert (int(mine["macs"]), mine["macs_source"]) == (16 * 32**2, "counted")


def test_a_size_that_is_unsupported(
    first: Answer, by_case: dict[tuple[str, str], dict[str, str]]
) -> None:
    """Is a row with its reason; the rest is measured, and the status is 0."""
    row = by_case["choosy", "32"]
    assert row["status"] == "unsupported"
    assert row["message"] == "it needs a map of 3 x 3 tokens or more"
    assert row["latency_s"] == row["throughput_img_s"] == ""
    assert [row["status"] for row in by_case.values()].count("measured") == 3
    assert "1 unsupported" in first.out


def test_samples(folder: Path, by_case: dict[tuple[str, str], dict[str, str]]) -> None:
    """Every sample of every measured case, as many as its row says."""
    counts = Counter(sample["case"] for sample in read_csv(folder / "first" / "samples.csv"))
    assert counts == {r["case"]: int(r["samples"]) for r in by_case.values() if r["samples"]}


@pytest.mark.slow  # test_counts.py compares the counts of every mechanism with those of another run
def test_two_runs_agree_exactly(folder: Path, first: Answer) -> None:
    """Deterministic columns are the same bytes."""
    second = real_run(folder, "second")
    assert second.status == 0, second.err
    exact = [
        [[row[name] for name in EXACT_COLUMNS] for row in read_csv(folder / run / "records.csv")]
        for run in ("first", "second")
    ]
    assert exact[0] == exact[1]


def test_a_run_is_not_overwritten(vitbench_there: Vitbench, folder: Path) -> None:
    """Another run into its folder is refused; it is left as it was."""
    before = (folder / "first" / "journal.jsonl").read_bytes()
    check_refusal(vitbench_there(*TINY, "--out", "first"), "already holds a run", "--resume first")
    assert (folder / "first" / "journal.jsonl").read_bytes() == before


def test_resume_of_a_finished_run(vitbench_there: Vitbench, folder: Path) -> None:
    """Reports again, from the journal, without measuring."""
    records = (folder / "first" / "records.csv").read_bytes()
    for name in ("records.csv", "report.html", "summary.md"):
        (folder / "first" / name).unlink()
    answer = vitbench_there("run", "--resume", "first")
    assert answer.status == 0
    assert "first/report.html" in answer.out.splitlines()
    assert (folder / "first" / "report.html").is_file()
    assert "3 of 4 cases measured" in answer.out
    assert (folder / "first" / "records.csv").read_bytes() == records


def test_plot_draws_again(vitbench_there: Vitbench, folder: Path) -> None:
    """Into the run's folder; a place that cannot be is refused."""
    chart = folder / "first" / "plots" / "macs.png"
    chart.unlink()
    answer = vitbench_there("plot", "first")
    assert answer.status == 0
    assert "first/plots/macs.png" in answer.out.splitlines()
    assert chart.is_file()
    check_refusal(vitbench_there("plot", "first", "--out", "choosy.py/plots"), "choosy.py/plots")


def test_table_prints_again(vitbench_here: Vitbench, folder: Path, first: Answer) -> None:
    """The rows that the run printed, from its folder or its CSV file, also as Markdown."""
    printed = vitbench_here("table", str(folder / "first" / "records.csv"))
    assert printed.status == 0
    rows = printed.out.splitlines()
    assert len(rows) == 5
    assert set(rows) <= set(first.out.splitlines())
    marked = vitbench_here("table", str(folder / "first"), "--markdown").out.splitlines()
    assert len(marked) == 6
    assert all(line.startswith("| ") and line.endswith(" |") for line in marked)
    check_refusal(vitbench_here("table", "nowhere"), "nowhere holds no records.csv")
    some = vitbench_here("table", str(folder / "first"), "--rows", "1").out.splitlines()
    assert len(some) == 3
    assert some[-1].startswith("1 of 4 rows are shown: ")
    attention = rows[1].split()[0]
    chosen = vitbench_here("table", str(folder / "first"), "--attention", attention).out
    assert {line.split()[0] for line in chosen.splitlines()[1:]} == {attention}
    check_refusal(vitbench_here("table", str(folder / "first"), "--dtype", "fp8"), "'fp8'")


def test_several_runs(vitbench_here: Vitbench, folder: Path, first: Answer, tmp_path: Path) -> None:
    """Their tables below each other, each with its name; charts of a CSV file lie beside it."""
    run, copy = folder / "first", tmp_path / "copy.csv"
    copy.write_bytes((run / "records.csv").read_bytes())
    one = vitbench_here("table", str(run)).out
    assert (
        vitbench_here("table", str(run), "copy.csv").out == f"\n{run}:\n\n{one}\ncopy.csv:\n\n{one}"
    )
    copy.write_text("".join(copy.read_text().splitlines(keepends=True)[:2]))  # one row
    drawn = vitbench_here("plot", "copy.csv").out.splitlines()
    assert "copy-plots/throughput-bars.png" in drawn
    assert all((tmp_path / name).is_file() for name in drawn)
    there = vitbench_here("plot", "copy.csv", "--out", "here").out.splitlines()
    assert there == [name.replace("copy-plots", "here") for name in drawn]


def test_a_run_that_was_killed(vitbench_here: Vitbench, tmp_path: Path) -> None:
    """All that read runs read its journal."""
    one = examples.case()
    with journal.create(tmp_path / "killed", examples.plan(one)) as written:
        written.append(journal.environment_entry(environment(), ceilings()))
        for index in range(2):
            written.append(journal.outcome_entry(one, index, measured()))
    for words in ("table killed", "compare killed killed", "check killed killed", "plot killed"):
        answer = vitbench_here(*words.split())
        assert (answer.status, answer.err) == (0, "")
    assert (tmp_path / "killed" / "plots" / "throughput-bars.png").is_file()
    assert vitbench_here("baseline", "update", "killed").status == 0
    assert vitbench_here("check", "baseline.csv", "killed").status == 0


def test_plot_of_no_run(vitbench_here: Vitbench, tmp_path: Path) -> None:
    """A folder without records, and a broken file of them."""
    check_refusal(vitbench_here("plot", "."), "records.csv")
    (tmp_path / "records.csv").write_text("a,b\n1,2\n")
    check_refusal(vitbench_here("plot", "."), "no column 'case'")


def carried_out(
    monkeypatch: pytest.MonkeyPatch, outcomes: list[Outcome], fault: BaseException | None = None
) -> None:
    """In the place of measuring: these outcomes of the first round, then a fault."""

    def start(plan: Plan, out: Path, on_progress: object = None) -> Run:
        done = Run(plan, environment(), ceilings())
        pairs = zip(plan.cases, outcomes, strict=False)
        done.outcomes = {(one.id, 0): outcome for one, outcome in pairs}
        journal.create(out, plan).close()
        derive(out, done)
        if fault is not None:
            raise fault
        return done

    monkeypatch.setattr(runner, "measure", start)


def test_failures(vitbench_here: Vitbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 1, a summary line, and the reasons in the table."""
    carried_out(monkeypatch, [measured(), Failed("crashed", "the worker was ended by SIGSEGV")])
    answer = vitbench_here(*TINY, "--batch-size", "1,2,3", "--out", "out")
    assert answer.status == 1
    assert "crashed: the worker was ended by SIGSEGV" in answer.out
    assert "1 of 3 cases measured on A CPU, 2 threads, 1 crashed, 1 not_measured" in answer.out
    assert "out/records.csv" in answer.out.splitlines()


def test_what_is_unsupported_is_no_failure(
    vitbench_here: Vitbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reason is in the table, and the status is 0."""
    carried_out(monkeypatch, [Failed("unsupported", "too small [1 x 1]")])
    answer = vitbench_here(*TINY, "--out", "out")
    assert answer.status == 0
    assert "unsupported: too small [1 x 1]" in answer.out
    assert "0 of 1 cases measured" in answer.out


def test_ctrl_c(vitbench_here: Vitbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends with what there is, says how to go on, and leaves with status 130."""
    carried_out(monkeypatch, [measured()], KeyboardInterrupt())
    answer = vitbench_here(*TINY, "--out", "out")
    assert answer.status == 130
    assert answer.err.count("\n") == 1
    assert "--resume out" in answer.err
    assert (tmp_path / "out" / "records.csv").is_file()


def test_a_full_disk(vitbench_here: Vitbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence, and status 1: what was asked was right."""
    carried_out(monkeypatch, [measured()], StorageFull("the disk that holds out is full"))
    answer = vitbench_here(*TINY, "--out", "out")
    assert (answer.status, answer.err) == (1, "vitbench: the disk that holds out is full\n")


@pytest.mark.parametrize(
    "where", ["plots/throughput-bars.pdf", "plots/throughput-bars.png", "plots"]
)
def test_charts_on_a_full_disk(
    vitbench_here: Vitbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """The figures are safe by then, and printed; the charts that lack are a sentence."""
    carried_out(monkeypatch, [measured()])
    (tmp_path / "out" / where).parent.mkdir(parents=True)
    (tmp_path / "out" / where).symlink_to("/dev/full")
    answer = vitbench_here(*TINY, "--out", "out")
    assert answer.status == 1
    assert answer.err.count("\n") == 1
    assert answer.err.startswith("vitbench: out/plots cannot be ")
    assert "1 of 1 cases measured" in answer.out
    assert "out/records.csv" in answer.out.splitlines()


def test_a_plan_that_cannot_be_measured(vitbench_here: Vitbench, tmp_path: Path) -> None:
    """Says how many of its cases, and why; a plugin that cannot be asked counts among them."""
    odd = "\nimport dataclasses\nATTENTION = dataclasses.replace(ATTENTION, unsupported=len)\n"
    plugin(tmp_path, "odd", PLUGIN + odd)
    words = "--attention hilo,msa,odd --plugin odd.py --param hilo.alpha=0.5,2"
    answer = vitbench_here(*TINY, "--dry-run", *words.split())
    assert answer.status == 0
    flat = " ".join(answer.out.split())
    assert "alpha is a share of the heads, between 0 and 1, got 2" in flat
    assert "TypeError: len() takes no keyword arguments" in flat
    assert "2 of 4 cases cannot be measured" in flat
    assert "cannot" not in vitbench_here(*TINY, "--dry-run").out


def test_dry_run_writes_nothing(vitbench_here: Vitbench, tmp_path: Path) -> None:
    """The plan and its time."""
    answer = vitbench_here(*TINY, "--dry-run", "--out", "out")
    assert answer.status == 0
    assert answer.err == ""
    assert "msa 32px float32 batch 1" in answer.out
    assert "1 case on cpu, 1 round:" in answer.out
    assert list(tmp_path.iterdir()) == []


def test_the_announcement_says_what_converts() -> None:
    """A part of the time, and on which images a model in int8 is calibrated; nothing of it where
    nothing is converted."""
    assert "convert" not in outlook(plan(case(), case(runtime="compile")))
    assert "s of it converts modules" in outlook(plan(case(runtime="openvino")))
    model = backbone_case(runtime="openvino", dtype="int8")
    images = Calibration(folder=Path("photos"), images=7, sha256="")
    said = outlook(plan(model, calibration=images))
    assert said.endswith("of it converts modules, calibrated on photos (7 images)")
    untimed = outlook(plan(case(runtime="openvino"), timed=False))
    assert untimed.endswith("s of it converts modules")


def test_list(vitbench_here: Vitbench) -> None:
    """Every mechanism below its family, with year, size rule, kernels, cost; every suite with its
    title."""
    lines = vitbench_here("list").out.splitlines()
    table = lines[1 : lines.index("")]
    below: dict[str, str] = {}
    for line in table:
        if line[:1].strip():
            family = next(name for name in attentions.FAMILIES if line.startswith(f"{name}  "))
        elif line[2:3].strip():
            below[line.split()[0]] = family
    assert below == {
        name: attentions.outline(attentions.path_of(name)).words["family"]
        for name in attentions.names()
    }
    assert list(dict.fromkeys(below.values())) == [
        name for name in attentions.FAMILIES if name in below.values()
    ]
    shown = [" ".join(line.split()) for line in lines]
    assert any(line.startswith("window 2021 pad SDPA 4NC^2 + 2w^2NC Window") for line in shown)
    assert any(line.startswith("xca 2021 any batched matmul") for line in shown)
    text = vitbench_here("list", "--suites").out
    for name, title in suite.describe().items():
        assert name in text
        assert title in text


def test_list_in_a_narrow_terminal(tmp_path: Path) -> None:
    """At 100 columns no line is longer, and no name, year or kernel is broken in two."""
    answer = command("list", cwd=tmp_path, FORCE_COLOR="1", NO_COLOR="1", COLUMNS="100")
    table = re.sub(r"\x1b\[[0-9;]*m", "", answer.out).partition("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 100
    starts = [line.split()[:2] for line in table if line[:2] == "  " and line[2:3].strip()]
    assert sorted(name for name, _ in starts) == list(attentions.names())
    assert all(year.startswith("20") and len(year) == 4 for _, year in starts)
    assert "SDPA" in answer.out


def test_columns(vitbench_here: Vitbench) -> None:
    """The table of columns, also as Markdown with one line for each."""
    text = vitbench_here("columns").out
    assert all(name in text for name in COLUMN_NAMES)
    markdown = vitbench_here("columns", "--markdown").out.splitlines()
    assert len(markdown) == 2 + len(COLUMNS)
    assert all(line.count(" | ") == 2 for line in markdown)


def test_version_and_help(vitbench_here: Vitbench) -> None:
    """Both end with status 0."""
    answer = vitbench_here("--version")
    assert (answer.status, answer.out) == (0, f"vitbench {vitbench.__version__}\n")
    for words in (["--help"], ["run", "-h"]):
        assert vitbench_here(*words).status == 0


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("run pe", ["peer-table"]),
        ("run --attention hi", ["hilo"]),
        ("run --attention msa,hi", ["msa,hilo"]),
        ("run --param msa.", ["msa.qkv_bias="]),
        ("info hi", ["hilo"]),
        ("pl", ["plot"]),
    ],
)
def test_completion(tmp_path: Path, words: str, offered: list[str]) -> None:
    """Commands, suites, mechanisms (the last of a list) and their parameters."""
    answer = command(
        cwd=tmp_path,
        _VITBENCH_COMPLETE="complete_bash",
        COMP_WORDS=f"vitbench {words}",
        COMP_CWORD=str(len(words.split())),
    )
    assert (answer.status, answer.out.split()) == (0, offered)


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    """`vitbench columns | head -1` is no fault."""
    pipe = f"{sys.executable} -m vitbench columns | head -1"
    done = subprocess.run(pipe, shell=True, capture_output=True, text=True, cwd=ROOT, check=True)
    assert (done.stdout.split(), done.stderr) == (["column", "unit", "meaning"], "")
