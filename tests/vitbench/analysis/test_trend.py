"""Runs over time: steps are found where they are, noise is none, and the commit is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.vitbench.examples import case, environment, facts, measured, run_folder
from vitbench.__main__ import run
from vitbench.analysis import trend
from vitbench.analysis.trend import RunSnapshot, Step
from vitbench.results.record import Record, build_record


def noisy(rng: np.random.Generator, levels: list[tuple[int, float]], scale: float) -> list[float]:
    """So many values around each level."""
    clean = np.repeat([level for _, level in levels], [count for count, _ in levels])
    return (clean * np.exp(rng.normal(0, scale, len(clean)))).tolist()


@pytest.mark.parametrize("scale", [0.005, 0.02])
def test_a_step_is_found_where_it_is(scale: float) -> None:
    """10% down after the twelfth of twenty runs: one step, there, of that size."""
    exact = 0
    for seed in range(50):
        values = noisy(np.random.default_rng(seed), [(12, 100.0), (8, 90.0)], scale)
        found = trend.steps(values)
        if [(step.before, step.after) for step in found] == [(11, 12)]:
            exact += 1
            assert found[0].ratio == pytest.approx(0.9, rel=3 * scale)
    assert exact >= (49 if scale < 0.01 else 42)


@pytest.mark.parametrize("count", [5, 10, 30])
def test_noise_is_no_step(count: int) -> None:
    """In at most 5 of 100 histories without a change."""
    called = 0
    for seed in range(200):
        values = noisy(np.random.default_rng(seed), [(count, 100.0)], 0.03)
        called += bool(trend.steps(values))
    assert called <= 10


def test_one_odd_run_is_no_step() -> None:
    """Nor is one that is 2.7 times slower."""
    values = noisy(np.random.default_rng(0), [(20, 100.0)], 0.01)
    values[9] /= 2.7
    assert trend.steps(values) == []


def test_a_small_step_is_not_told() -> None:
    """However sure it is."""
    values = noisy(np.random.default_rng(0), [(20, 100.0), (20, 99.0)], 0.0005)
    assert trend.steps(values, min_change=0.02) == []
    assert len(trend.steps(values, min_change=0.005)) == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_runs_show_nothing(count: int) -> None:
    assert trend.steps([100.0, 50.0, 25.0][:count]) == []


def row(latency_s: float, torch: str = "2.13", **changes: object) -> Record:
    machine = environment(torch={"version": torch, "threads": 2})
    return build_record(case(**changes), [measured(latency_s, facts=facts())], None, machine)


def test_the_sentence_names_the_commit() -> None:
    """And a version of torch that changed with it."""
    history = [
        RunSnapshot(
            f"run{k}", [row(0.01 if k < 4 else 0.012, "2.13" if k < 4 else "2.14")], f"{k:040x}"
        )
        for k in range(8)
    ]
    (one,) = trend.series(history)
    (step,) = one.steps
    assert (step.before, step.after) == (3, 4)
    sentence = trend.sentence(one, step, history)
    assert "1.200 times slower at 0000000, after 0000000" in sentence
    assert "torch went from 2.13 to 2.14" in sentence
    assert trend.sentence(one, Step(3, 4, 1.25), history).count("1.250 times faster") == 1


def test_cases_are_not_mixed() -> None:
    """Another dtype, size or machine is another series; a case of one run is none."""
    history = [
        RunSnapshot("a", [row(0.01), row(0.02, dtype="bfloat16")]),
        RunSnapshot("b", [row(0.01), row(0.02, image_height=128, grid_height=8)]),
    ]
    assert [one.describe.split()[2] for one in trend.series(history)] == ["float32"]


def written(folder: Path, latency_s: float, commit: str) -> Path:
    """A run folder of one case."""
    outcome = measured(latency_s, latency_s * 1.01, facts=facts())
    return run_folder(folder, {case(): [outcome]}, code={"commit": commit, "dirty": False})


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step with its commit, the chart, and the same as JSON."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    folders = []
    for k in range(10):
        latency = (0.01 if k < 6 else 0.0115) * math.exp(rng.normal(0, 0.005))
        folders.append(str(written(tmp_path / f"run{k}", latency, f"{k}" * 40)))
    assert run(["trend", *folders, "--out", "history"]) == 0
    output = capsys.readouterr().out
    assert "times slower at 6666666, after 5555555" in output.replace("\n", " ")
    assert (tmp_path / "history" / "history.png").stat().st_size > 10_000
    assert run(["trend", *folders, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["runs"][6]["commit"] == "6" * 40
    assert data["series"][0]["steps"][0]["after"] == 6


def test_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence: no such run, one run alone, a share that is none."""
    monkeypatch.chdir(tmp_path)
    one = str(written(tmp_path / "run", 0.01, "0" * 40))
    for words, said in (
        (["nowhere"], "nowhere holds no records.csv"),
        ([one], "no case was measured by two of these runs"),
        ([one, one, "--min-change", "x"], "--min-change: a share is like 5%"),
    ):
        assert run(["trend", *words]) == 2
        assert said in capsys.readouterr().err
