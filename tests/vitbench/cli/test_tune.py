"""`vitbench tune`, as a newcomer types it: real workers on a small mechanism."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.vitbench.engine.test_tune import Timed, latency_s
from tests.vitbench.examples import case, facts, layer, measured, plan, plugin, read_csv, vitbench
from vitbench.__main__ import run
from vitbench.engine import pool, runner
from vitbench.render import charts, report
from vitbench.results.outcome import Failed

# Its second setting takes several times as long as its first.
REPEATED = layer(
    build="self.times = strength",
    forward="for _ in range(self.times): y = self.scale(y)",
    keywords=", *, strength=4, offset=0",
    spec=', space={"strength": (1, 4, 40), "offset": (0, 1)}',
)
SHORT = ("--dim", "24", "--heads", "2", "--batch-size", "1", "--device", "cpu", "--quiet")


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Timed:
    """Scripted workers in place of processes."""
    made = Timed()
    monkeypatch.setattr(pool, "Child", made.make)
    return made


def test_the_answer_is_shown(
    workers: Timed,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In sentences, as charts, and in a page that begins with it; asked again it is the same, and
    nothing is measured."""
    out = tmp_path / "out"
    words = ["tune", "hilo", "--resolution", "224", "--batch-size", "1", "--device", "cpu"]
    assert run([*words, "--quiet", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "use window_size=7 alpha=0.5: " in printed
    assert "the authors' setting, window_size=2 alpha=0.9, takes 2.65 times (" in printed
    plots = {path.name for path in (out / "plots").glob("*.png")}
    assert {"settings-hilo.png", "trade-offs-hilo.png"} <= plots
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 0 < page.find("The best setting</h2>") < page.find("Which is the fastest?")
    assert "takes 2.65 times" in page
    assert "takes 2.65 times" in (out / "summary.md").read_text(encoding="utf-8")
    asked = len(workers.asked)
    monkeypatch.setattr(charts, "draw", lambda folder: [])  # it takes seconds
    assert run(["tune", "--resume", str(out), "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert len(workers.asked) == asked
    assert answer["settings"] == "alpha=0.5 qkv_bias=true window_size=7"
    assert answer["default_over_pick"][0] == pytest.approx(2.65, rel=0.01)


def test_json_is_nothing_else(
    workers: Timed,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What fails is told beside it; and MACs that nobody knows choose nothing."""
    monkeypatch.setattr(charts, "draw", lambda folder: [])  # it takes seconds
    monkeypatch.setattr(report, "write", lambda folders: [])
    workers.script = lambda case: (
        Failed("crashed", "it crashed")
        if dict(case.params)["alpha"] == 0.5
        else measured(latency_s(case), facts=facts(macs=None))
    )
    words = ["tune", "hilo", "--space", "alpha=0.5,1", "--rounds", "3", *SHORT]
    assert run([*words, "--resolution", "224", "--json", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    (answer,) = json.loads(printed.out)
    assert answer["settings"] == "alpha=0.9 qkv_bias=true window_size=2"
    assert answer["fewest_macs"] is None
    assert "it crashed" in printed.err


@pytest.mark.slow
def test_the_fastest_setting_is_found(tmp_path: Path) -> None:
    """By real workers, of a plugin with a space of its own."""
    own = plugin(tmp_path, "repeated", REPEATED)
    done = vitbench(
        tmp_path, "tune", "repeated", "--plugin", str(own), *SHORT, "--rounds", "3", "--out", "out"
    )
    assert done.returncode == 0, done.stderr
    assert "use strength=1" in done.stdout
    margin = re.search(r"strength=4 offset=0, takes ([\d.]+) times \(", done.stdout)
    assert margin is not None
    assert float(margin[1]) > 1
    rows = read_csv(tmp_path / "out" / "records.csv")
    assert {row["settings"] for row in rows} >= {"offset=0 strength=40", "offset=1 strength=1"}
    slow = next(row for row in rows if row["settings"] == "offset=0 strength=40")
    assert int(slow["rounds"]) < 6
    again = vitbench(tmp_path, "tune", "--resume", "out", "--json")
    assert again.returncode == 0, again.stderr
    (answer,) = json.loads(again.stdout)
    assert "strength=1" in answer["settings"]
    assert answer["default_over_pick"][0] == pytest.approx(float(margin[1]), rel=0.01)


@pytest.mark.slow
def test_drawn_settings_are_measured(tmp_path: Path) -> None:
    """By real workers, also those that come in after the first round."""
    own = plugin(tmp_path, "repeated", REPEATED)
    words = ["tune", "repeated", "--plugin", str(own), *SHORT, "--trials", "4", "--rounds", "3"]
    done = vitbench(tmp_path, *words, "--out", "out")
    assert done.returncode == 0, done.stderr
    rows = read_csv(tmp_path / "out" / "records.csv")
    assert len(rows) == 5
    assert {row["status"] for row in rows} == {"measured"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("tune", "tune needs a mechanism or a backbone"),
        ("tune hillo", "no mechanism or backbone is called 'hillo'; nearest: hilo"),
        ("tune hilo --space alpha=0:1", "a range is first:last:step"),
        ("tune hilo --space alfa=0.5", "hilo has no parameter 'alfa'; nearest: alpha"),
        ("tune hilo --space alpha=much", "hilo.alpha is a number like 0.9, got 'much'"),
        ("tune hilo --space dim=wide", "dim is a whole number, got wide"),
        ("tune hilo --space alpha=0:1:1e-400", "'0:1:1e-400' has more than 10000 values"),
        ("tune hilo --space dim=383", "no setting of the space can be built: dim must be"),
        ("tune msa", "msa has no space of its own"),
        ("tune resnet50", "resnet50 has no space of its own"),
        ("tune litv2_s --space sr_ratio=2", "litv2_s has no parameter 'sr_ratio'"),
        ("tune hilo --max-gmacs 0", "--max-gmacs is over 0"),
        ("tune hilo --max-params many", "a number of parameters is like 28M"),
        ("tune hilo --rounds 2", "--rounds is at least 3"),
        ("tune hilo --trials 0", "--trials is at least 1"),
        ("tune hilo --task detect", "--task is of backbones"),
        ("tune hilo --resume nowhere", "--resume does not go with subject"),
        ("tune --resume nowhere", "nowhere holds no run"),
    ],
)
def test_a_slip_is_one_sentence(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Status 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    assert run(words.split()) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert len(err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_run_that_tunes_nothing_is_named(
    workers: Timed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the command that continues it."""
    workers.script = lambda _: measured()
    runner.measure(plan(case()), tmp_path / "out")
    assert run(["tune", "--resume", str(tmp_path / "out")]) == 2
    assert "holds a run that tunes nothing: `vitbench run --resume" in capsys.readouterr().err
