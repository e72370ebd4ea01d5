"""`vitbench advise` and `insight` on rows whose truth is known, as a newcomer types them."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import synthetic_records as synthetic
from vitbench.__main__ import run

SPEEDS = {"msa": 0.03, "hilo": 0.01, "window": 0.0101, "sra": 0.02}
SIZES = (224, 288)
Vitbench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def vitbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Vitbench:
    """The command in a folder that has a run: its status and what it prints."""
    monkeypatch.chdir(tmp_path)
    planned = synthetic.cases(
        attention=tuple(SPEEDS), resolution=SIZES, runtime=("eager", "openvino")
    )
    rows = [
        synthetic.record(
            case,
            [
                SPEEDS[case.attention] * (0.5 if case.runtime == "openvino" else 1) * factor
                for factor in (0.99, 1.0, 1.01)
            ],
            peak_memory_bytes=2**20 * (1 + list(SPEEDS).index(case.attention)),
        )
        for case in planned
    ]
    synthetic.folder(tmp_path / "run", rows)

    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = run(list(words))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_an_answer_says_all_that_is_asked(vitbench: Vitbench) -> None:
    """The pick, the tie, the commands, why each rival lost, what would change it, what is not
    measured and what that costs."""
    status, out, _ = vitbench("advise", "run", "--resolution", "224", "--runtime", "openvino")
    assert status == 0
    first, tie, runner_up, convert, again, *_ = out.splitlines()
    assert first.startswith("use hilo fused in openvino at 224 px, batch 8, float32 on A CPU")
    assert tie == (
        "a tie: nothing tells it from window fused in openvino; of these it takes the least memory"
    )
    assert runner_up == "runner-up: window fused in openvino, 1.01 times as long"
    assert convert.startswith("convert it: vitbench convert hilo --runtime openvino --resolution ")
    assert again.startswith("measure it again: vitbench run --attention hilo --resolution 224x224")
    for line in (
        "- msa fused in openvino: takes 3.00 times as long",
        "- within 20% of it: window fused in openvino; only turns tell them apart for certain: "
        "--turns",
    ):
        assert line in out.splitlines()
    assert re.search(r"- attentions additive, .* and \d+ more: .* with vitbench run ", out)


def test_the_commands_of_an_answer_are_commands(vitbench: Vitbench) -> None:
    """Those that measure take every option that is printed."""
    _, out, _ = vitbench("advise", "run", "--resolution", "288", "--runtime", "eager")
    commands = re.findall(r"vitbench run .*", out)
    assert len(commands) >= 2
    for command in commands:
        status, planned, err = vitbench(*shlex.split(command)[1:], "--dry-run")
        assert (status, err) == (0, "")
        assert " on cpu, " in planned


def test_what_builds_or_converts_the_pick_does_so(vitbench: Vitbench) -> None:
    """The expression is a module in Python, and the command has options that exist."""
    import attentions

    _, out, _ = vitbench("advise", "run", "--resolution", "288", "--runtime", "eager")
    (expression,) = re.findall(r"build it: (.*)", out)
    module = eval(expression, {"attentions": attentions})
    assert type(module).__name__ == "HiLo"
    _, out, _ = vitbench("advise", "run", "--resolution", "288", "--runtime", "openvino")
    (command,) = re.findall(r"convert it: vitbench (.*)", out)
    status, _, err = vitbench(*shlex.split(command), "--out", "model.wrong")
    assert (status, err) == (2, "vitbench: --out of openvino ends in .xml, got model.wrong\n")


def test_limits(vitbench: Vitbench) -> None:
    """Those that are kept; where nothing keeps them the nearest is named, with exit status 1."""
    asked = ("advise", "run", "--resolution", "224", "--runtime", "eager")
    _, out, _ = vitbench(*asked, "--max-memory", "1MiB")
    assert out.startswith("use msa fused in eager ")
    assert "- hilo fused in eager: peak memory of 2.00 MiB is over 1.00 MiB" in out
    assert "- without the limits hilo fused in eager: peak memory" in out
    status, out, _ = vitbench(*asked, "--max-memory", "1MiB", "--max-latency", "5 ms")
    assert status == 1
    assert out.startswith(
        "nothing measured meets latency of at most 5.00 ms and peak memory of at most 1.00 MiB: "
        "nearest is hilo fused in eager, "
    )
    status, out, _ = vitbench(*asked, "--max-latency", "20ms p95")
    assert status == 1
    assert "its p95 of the latency is not known, and 20.0 ms is the limit" in out
    _, out, _ = vitbench(*asked, "--min-top1", "81")
    assert "its published top-1 is not known, and 81% is the limit" in out


def test_settings_that_somebody_chose_are_named(vitbench: Vitbench) -> None:
    """Two settings of a mechanism are two rivals; the authors' own are not told."""
    planned = synthetic.cases(attention="hilo", params={"hilo": {"alpha": (0.5, 0.9)}})
    planned += synthetic.cases(attention="msa")
    seconds = (0.01, 0.02, 0.03)
    rows = [synthetic.record(case, [s, s]) for case, s in zip(planned, seconds, strict=True)]
    synthetic.folder(Path("swept"), rows)
    _, out, _ = vitbench("advise", "swept")
    assert out.startswith("use hilo[alpha=0.5] fused in eager at ")
    assert "- hilo fused in eager: takes 2.00 times as long" in out
    assert "- msa fused in eager: takes 3.00 times as long" in out


def test_models_by_their_published_accuracy(vitbench: Vitbench) -> None:
    """The fastest of those that reach it, marked as published; without a run those are planned."""
    seconds = {"litv2_s": 0.01, "litv2_b": 0.03}
    rows = [
        synthetic.record(case, [seconds[case.backbone]] * 3)
        for case in synthetic.cases(backbone=tuple(seconds))
    ]
    synthetic.folder(Path("models"), rows)
    _, out, _ = vitbench("advise", "models", "--min-top1", "83", "--task", "classify")
    assert out.startswith("use litv2_b fused in eager at 224 px, batch 8, float32 on ")
    assert "published top-1 83.6%" in out.splitlines()[0]
    assert "- litv2_s fused in eager: published top-1 of 82% is under 83%" in out
    _, out, _ = vitbench("advise", "--min-top1", "83.5", "--device", "cpu")
    assert "litv2_b" in out.splitlines()[0]
    assert "litv2_s" not in out.splitlines()[0]


def test_a_quantized_pick_says_how_far_it_is_off_and_what_it_was_calibrated_on(
    vitbench: Vitbench,
) -> None:
    (case,) = synthetic.cases(backbone=("litv2_s",), runtime=("openvino",), dtype=("int8",))
    told = {"calibration": "photos (3 images)", "error_rms": 0.0278}
    synthetic.folder(Path("int8"), [synthetic.record(case, [0.01] * 3, **told)])
    _, out, _ = vitbench("advise", "int8")
    assert "error is 2.78% of the output" in out
    assert "of photos (3 images): where that is a folder of your own" in out


def test_as_json(vitbench: Vitbench) -> None:
    """Rows by the ids of their cases."""
    asked = ("advise", "run", "--resolution", "224", "--json")
    answer = json.loads(vitbench(*asked)[1])
    assert re.fullmatch("[0-9a-f]{12}", answer["pick"])
    assert answer["runner_up"] in answer["level"]
    assert len(answer["lost"]) == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("run --runtime openvinoo", ["'openvinoo'", "nearest: openvino"]),
        ("run --runtime compile", ["no row has runtime 'compile'", "eager"]),
        ("run --resolution 512", ["no row has resolution '512'", "224, 288"]),
        ("run", ["2 resolutions: 224, 288; choose one with --resolution"]),
        ("run --device cuda", ["no row is of the device 'cuda'"]),
        ("run --device cudaa", ["'cudaa'"]),
        ("run --task detect", ["no row is of a backbone that does the task detect"]),
        ("run --task cook", ["'cook'", "classify, detect, segment"]),
        ("nowhere", ["nowhere holds no records.csv"]),
        ("run --max-latency '20 bananas'", ["'20 bananas'", "20ms"]),
        ("run --max-latency '20ms p12'", ["from 50 to 100"]),
        ("run --max-memory lots", ["'lots'", "8GiB"]),
        ("run --max-memory 0", ["over 0 bytes"]),
        ("run --min-top1 810", ["up to 100", "810"]),
        ("run --yes", ["--yes is for a question without a run"]),
        ("run --budget 3m", ["--budget is for --turns"]),
        ("--min-top1 99.9", ["no named model has a published top-1 of 99.9%"]),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(
    vitbench: Vitbench, options: str, words: list[str]
) -> None:
    """Exit status 2, one line on stderr, nothing written."""
    before = sorted(Path().iterdir())
    status, out, err = vitbench("advise", *shlex.split(options))
    assert (status, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err
    assert sorted(Path().iterdir()) == before


def test_without_a_run_the_smallest_sweep_is_planned(vitbench: Vitbench) -> None:
    """What it is, how long it takes, and that --yes measures it; nothing is measured."""
    status, out, _ = vitbench("advise", "--attention", "msa,hilo", "--resolution", "64")
    assert status == 0
    assert out.splitlines()[0] == ("no run is given; the smallest sweep that can answer: msa, hilo")
    assert re.search(r"2 cases on \S+, 4 rounds: (about .*|.* to .*, depending on the noise)", out)
    assert out.splitlines()[-1] == "measure it with --yes"
    assert sorted(path.name for path in Path().iterdir()) == ["run"]


def test_turns_that_are_interrupted(vitbench: Vitbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says what is kept and how to get an answer, with status 130; a second call
    starts anew, and refuses a folder that has turns already."""

    def measure(*words: object, **more: object) -> None:
        Path("turns", "readings.csv").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("vitbench.engine.turns.measure", measure)
    asked = ("advise", "run", "--resolution", "224", "--runtime", "eager", "--turns")
    status, out, err = vitbench(*asked, "--out", "turns")
    assert (status, out) == (130, "")
    assert err.startswith("vitbench: interrupted; turns contains the turns so far")
    assert err.count("\n") == 1
    status, _, err = vitbench(*asked, "--out", "turns")
    assert (status, err) == (2, "vitbench: turns is not empty; choose another --out\n")


@pytest.mark.parametrize("status", ["error", "counted"])
def test_rows_without_a_time_are_no_answer(vitbench: Vitbench, status: str) -> None:
    """It says that nothing was measured, not that nothing can be trusted; with each reason."""
    rows = [synthetic.failed(case, status, "lost") for case in synthetic.cases(attention="msa")]
    synthetic.folder(Path("failures"), rows)
    found, out, _ = vitbench("advise", "failures")
    assert found == 1
    assert out.startswith("nothing was measured; without a time no row can be the answer")
    assert "- msa fused in eager: " in out


def test_a_run_without_rows_says_so(vitbench: Vitbench) -> None:
    """In one sentence with its name and status 2, whatever is asked."""
    synthetic.folder(Path("empty"), [])
    for more in ([], ["--device", "cpu"], ["--runtime", "eager"]):
        status, out, err = vitbench("advise", "empty", *more)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "no rows in empty" in err


def test_one_case_is_told_in_the_singular(vitbench: Vitbench) -> None:
    """What bounds it, with its share of the roofline once."""
    (case,) = synthetic.cases(attention="msa")
    synthetic.folder(Path("one"), [synthetic.record(case, [0.01] * 3)])
    _, out, _ = vitbench("insight", "one")
    assert "- compute: 1 of 1 cases; msa reaches 100% of the roofline" in out.splitlines()


def test_names_of_users_are_harmless(vitbench: Vitbench) -> None:
    """Signs that turn the direction of writing stand as their codes; the rest is text."""
    name = "a\u202e<script>=cmd()" + "x" * 200
    (one, two) = synthetic.cases(attention=("msa", "hilo"))
    rows = [
        synthetic.record(dataclasses.replace(one, attention=name), [0.01, 0.01]),
        synthetic.record(two, [0.02, 0.02]),
    ]
    synthetic.folder(Path("strange"), rows)
    for command in ("advise", "insight"):
        status, out, _ = vitbench(command, "strange")
        assert status == 0
        assert "\u202e" not in out
        assert "a\\u202e<script>=cmd()" + "x" * 200 in out


def test_insight_says_what_rows_show(vitbench: Vitbench) -> None:
    """In paragraphs; options choose rows; a limit of memory is read; as JSON the same."""
    _, out, _ = vitbench("insight", "run", "--memory", "2MiB")
    assert "openvino is 2.00 times as fast as eager (2.00 to 2.00): " in out
    assert "fronts:" in out.splitlines()
    assert " fits 0.00195 GiB" in out
    paragraphs = json.loads(vitbench("insight", "run", "--json")[1])
    assert {"title", "sentences", "more"} == set(paragraphs[0])
    _, out, _ = vitbench("insight", "run", "--runtime", "eager", "--attention", "msa")
    assert "openvino" not in out
