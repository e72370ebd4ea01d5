"""Tuning runs: what is planned, what each round measures, resume, and draws from large spaces."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.vitbench.engine.test_runner import Workers
from tests.vitbench.examples import facts, layer, measured, plugin
from vitbench.analysis.tuning import outcomes
from vitbench.cases.case import Case
from vitbench.cases.limits import Limits
from vitbench.cases.plan import Plan
from vitbench.cases.scalars import Scalar
from vitbench.engine import drawing, pool, runner, tune
from vitbench.errors import BadInput
from vitbench.results import journal
from vitbench.results.folder import JOURNAL
from vitbench.results.journal import Run
from vitbench.results.outcome import MEASURED, Failed, Outcome

AXES = {"resolution": (224,), "batch_size": (1,)}
SMALL = {"alpha": (0.0, 0.5, 0.9, 1.0), "window_size": (2, 7)}
LARGE = {"alpha": tuple(i / 100 for i in range(101)), "window_size": tuple(range(1, 15))}


def latency_s(case: Case) -> float:
    """Fastest at alpha 0.5 and window 7, smoothly slower around."""
    own: dict[str, Scalar] = dict(case.params)
    alpha, window = float(own["alpha"]), float(own["window_size"])
    return 0.01 * (1 + abs(alpha - 0.5) + abs(math.log(window / 7)))


class Timed(Workers):
    """Workers that take as long as `latency_s` says; a round is slower than the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.script = lambda case: measured(
            *[latency_s(case) * (1 + 0.1 * len(self.started))] * 3, facts=facts()
        )


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Timed:
    """Scripted workers in place of processes."""
    made = Timed()
    monkeypatch.setattr(pool, "Child", made.make)
    return made


def planned(space: Mapping[str, tuple[Scalar, ...]], **changes: object) -> Plan:
    """A plan that tunes hilo."""
    fields: dict[str, object] = {"axes": AXES, "limits": Limits(), "device": "cpu"}
    return tune.make_plan("hilo", "attention", space, **{**fields, **changes})  # type: ignore[arg-type] # of a test's choice


def pick_of(run: Run) -> dict[str, Scalar]:
    """The hyper-parameters of the pick."""
    assert run.plan.tuning is not None
    (outcome,) = outcomes(run.records(), run.medians(), run.plan.tuning)
    assert outcome.pick is not None
    return dict(next(c.params for c in run.plan.cases if c.id == outcome.pick["case"]))


def test_the_authors_setting_comes_first_and_each_once() -> None:
    chosen = planned(SMALL)
    assert chosen.tuning is not None
    assert len(chosen.cases) == len({*chosen.cases}) == 8
    assert chosen.tuning.defaults == (chosen.cases[0].id,)
    assert dict(chosen.cases[0].params)["alpha"] == 0.9


def test_a_space_that_comes_with_the_mechanism_is_tried_whole() -> None:
    """Also of a model, whose stages have names of their own."""
    assert len(planned({}).cases) == 34
    model = tune.make_plan(
        "litv2_s", "backbone", {}, axes={"batch_size": (1,)}, limits=Limits(), device="cpu"
    )
    settings = [dict(case.params) for case in model.cases]
    assert {"msa", "hilo", "sra"} <= {own["attention"] for own in settings}
    assert {own.get("stage4_window_size") for own in settings} == {None, 2, 7}


def test_every_size_and_runtime_has_its_own_authors_setting() -> None:
    axes = {"resolution": (224, 448), "runtime": ("eager", "compile"), "batch_size": (1,)}
    chosen = planned(SMALL, axes=axes)
    assert chosen.tuning is not None
    assert len(chosen.tuning.defaults) == 4
    assert len(chosen.cases) == 32


def test_what_cannot_be_built_is_left_out_and_said() -> None:
    """The rest is measured."""
    notes: list[str] = []
    space = {"kernel_size": (7, 13, 15)}
    chosen = tune.make_plan(
        "neighborhood",
        "attention",
        space,
        axes=AXES,
        limits=Limits(),
        device="cpu",
        on_note=notes.append,
    )
    assert {dict(case.params)["kernel_size"] for case in chosen.cases} == {7, 13}
    assert "15" in notes[0]


@pytest.mark.parametrize(
    ("space", "changes", "words"),
    [
        ({"alfa": (0.5,)}, {}, "alpha"),
        ({"alpha": ("much",)}, {}, "alpha"),
        ({"window_size": (1.5,)}, {}, "whole number"),
        ({"window_size": (2,)}, {"trials": 0}, "--trials"),
        ({"window_size": (2,)}, {"last_rounds": 2}, "--rounds"),
    ],
)
def test_a_space_that_cannot_be_is_one_sentence(
    space: Mapping[str, tuple[Scalar, ...]], changes: dict[str, object], words: str
) -> None:
    with pytest.raises(BadInput, match=words) as error:
        planned(space, **changes)
    assert "\n" not in str(error.value)


def test_a_parameter_that_no_mechanism_of_the_model_has_is_named() -> None:
    axes = {"resolution": (224,), "batch_size": (1,)}

    def of(space: Mapping[str, tuple[Scalar, ...]]) -> Plan:
        return tune.make_plan("litv2_s", "backbone", space, axes=axes, limits=Limits())

    with pytest.raises(BadInput, match="sr_ratio"):
        of({"attention": ("hilo", "msa"), "sr_ratio": (1, 2)})
    with pytest.raises(BadInput, match="no attention mechanism is called 'hillo'"):
        of({"attention": ("hillo",)})
    assert len(of({"attention": ("hilo", "msa"), "alpha": (0.5, 0.9)}).cases) == 3


def test_a_subject_without_a_space_says_what_it_has(tmp_path: Path) -> None:
    """A plugin's own space is taken."""
    with pytest.raises(BadInput, match="qkv_bias"):
        tune.make_plan("msa", "attention", {}, axes=AXES, limits=Limits(), device="cpu")
    own = plugin(tmp_path, "mine", layer(spec=', space={"strength": (1.0, 2.0, 3.0)}'))
    chosen = tune.make_plan(
        "mine", "attention", {}, axes=AXES, limits=Limits(), device="cpu", plugins=(own,)
    )
    assert len(chosen.cases) == 3


def test_the_best_is_found_at_a_part_of_the_price(workers: Timed, tmp_path: Path) -> None:
    """What is given up is not measured again; the authors' setting is in every round."""
    chosen = planned({})
    run = runner.measure(chosen, tmp_path / "run")
    assert pick_of(run).items() >= {"alpha": 0.5, "window_size": 7}.items()
    assert chosen.tuning is not None
    assert len(run.outcomes) <= len(chosen.cases) * chosen.rounds / 2
    assert workers.ids().count(chosen.tuning.defaults[0]) == chosen.rounds


@pytest.mark.parametrize("answers", [0, 3, 34, 60])
def test_a_run_that_is_resumed_measures_what_an_undisturbed_one_does(
    workers: Timed, tmp_path: Path, answers: int
) -> None:
    """Wherever it was cut off: a round that was cut off begins again, for its settings are compared
    within one process."""
    chosen = planned({})
    whole = runner.measure(chosen, tmp_path / "whole")
    left = answers
    told = workers.script

    def script(case: Case) -> object:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        return told(case)

    workers.script = script  # type: ignore[assignment] # it raises
    with pytest.raises(KeyboardInterrupt):
        runner.measure(chosen, tmp_path / "cut")
    workers.script = told
    resumed = runner.resume(tmp_path / "cut")
    assert resumed.outcomes.keys() == whole.outcomes.keys()


def test_settings_that_fail_are_given_up(workers: Timed, tmp_path: Path) -> None:
    """Also the fastest; what is left has an answer."""
    told = workers.script
    workers.script = lambda case: (
        Failed("crashed", "it crashed") if dict(case.params)["alpha"] == 0.5 else told(case)
    )
    run = runner.measure(planned({}), tmp_path / "run")
    assert pick_of(run)["window_size"] == 7
    assert pick_of(run)["alpha"] in (0.4, 0.6)


@pytest.mark.parametrize("after", [1, 2, 5, 8])
def test_a_setting_that_fails_late_is_given_up(workers: Timed, tmp_path: Path, after: int) -> None:
    """The fastest crashes when it was measured so many times: the next one is the answer."""
    told, left = workers.script, after

    def script(case: Case) -> Outcome:
        nonlocal left
        if dict(case.params).items() >= {"alpha": 0.5, "window_size": 7}.items():
            left -= 1
            if left < 0:
                return Failed("crashed", "it crashed")
        return told(case)  # type: ignore[return-value] # it raises nothing

    workers.script = script
    run = runner.measure(planned({}), tmp_path / "run")
    assert pick_of(run)["window_size"] == 7
    assert pick_of(run)["alpha"] in (0.4, 0.6)


def drawn(workers: Timed, folder: Path, **changes: object) -> Run:
    """A run that draws from a space of 1,414 settings."""
    chosen = planned(LARGE, trials=32, **changes)
    assert len(chosen.cases) == 1
    return runner.measure(chosen, folder)


def test_a_large_space_is_drawn_from(workers: Timed, tmp_path: Path) -> None:
    """Each setting once, in four portions; each is checked and counted when it comes in; what is
    found is near the optimum; and the journal has all of it."""
    run = drawn(workers, tmp_path / "run")
    assert len(run.drawn) == 32
    assert len({case.id for case in run.plan.cases}) == len(run.plan.cases)
    looked_at = [case_id for _, case_id, with_facts in workers.asked if with_facts]
    assert sorted(looked_at) == sorted(case.id for case in run.plan.cases)
    assert all(record["status"] == MEASURED for record in run.records())
    assert [sum(draw.round_index == index for draw in run.drawn) for index in range(5)] == [
        8, 8, 8, 8, 0,
    ]  # fmt: skip
    pick = pick_of(run)
    assert abs(float(pick["alpha"]) - 0.5) + abs(math.log(float(pick["window_size"]) / 7)) < 0.3
    again = journal.read(tmp_path / "run")
    assert again.plan == run.plan
    assert again.drawn == run.drawn
    assert again.outcomes == run.outcomes


def test_a_run_that_is_resumed_draws_the_same(workers: Timed, tmp_path: Path) -> None:
    """The draws follow from the journal alone, wherever it was cut off, also between two draws."""
    whole = drawn(workers, tmp_path / "whole")
    lines = (tmp_path / "whole" / JOURNAL).read_text().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines, start=1) if '"outcome"' in line]
    draws = [number for number, line in enumerate(lines, start=1) if '"drawn"' in line]
    cuts = [draws[2], draws[11], *(ends[int(share * len(ends))] for share in (0.1, 0.7))]
    for index, cut in enumerate(cuts):
        folder = tmp_path / f"cut{index}"
        folder.mkdir()
        (folder / JOURNAL).write_text("".join(lines[:cut]))
        resumed = runner.resume(folder)
        assert {draw.cases[0].id for draw in resumed.drawn} == {
            draw.cases[0].id for draw in whole.drawn
        }
        assert resumed.outcomes.keys() == whole.outcomes.keys()


def test_draws_of_settings_that_cannot_be_built_are_others(
    workers: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A space that has no more ends the drawing. What is missing is asked about at once: a question
    about a plugin takes a process."""
    questions = 0

    def reasons(cases: list[Case], _: object) -> dict[Case, str]:
        nonlocal questions
        questions += 1
        return {case: "odd" for case in cases if int(str(dict(case.params)["window_size"])) % 2}

    monkeypatch.setattr(drawing, "reasons_against", reasons)
    run = drawn(workers, tmp_path / "run")
    assert questions < 32
    assert len(run.drawn) == 32
    assert all(int(str(draw.setting["window_size"])) % 2 == 0 for draw in run.drawn)
    small = planned({"window_size": (1, 2, 3, 4)}, trials=3)
    run = runner.measure(small, tmp_path / "small")
    assert {draw.setting["window_size"] for draw in run.drawn} <= {2, 4}


def test_a_space_of_no_more_than_is_wanted_is_tried_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is drawn, and optuna is not needed."""
    monkeypatch.setattr(drawing, "missing", lambda: "optuna is not installed: pip install ...")
    chosen = planned(SMALL, trials=8)
    assert chosen.tuning is not None
    assert chosen.tuning.drawn == 0
    assert len(chosen.cases) == 8
    with pytest.raises(BadInput, match="7 would be drawn, but optuna"):
        planned(SMALL, trials=7)


def test_without_optuna_a_large_space_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it, before anything is measured."""
    monkeypatch.setattr(drawing, "missing", lambda: "optuna is not installed: pip install ...")
    with pytest.raises(BadInput, match=r"1414 settings .* 128 would be drawn, but optuna"):
        planned(LARGE)


def test_without_optuna_a_run_that_draws_is_not_resumed(
    workers: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, and what was measured stays."""
    chosen = planned(LARGE, trials=4)
    journal.create(tmp_path / "run", chosen).close()
    before = (tmp_path / "run" / JOURNAL).read_bytes()
    monkeypatch.setattr(drawing, "missing", lambda: "optuna is not installed: pip install ...")
    with pytest.raises(BadInput, match="the run draws settings, but optuna is not installed"):
        runner.resume(tmp_path / "run")
    assert (tmp_path / "run" / JOURNAL).read_bytes() == before


def test_a_limit_leaves_the_rest(workers: Timed, tmp_path: Path) -> None:
    """A latency that nothing keeps to is no answer."""
    chosen = planned(SMALL, limits=Limits(latency_s=1e-6))
    run = runner.measure(chosen, tmp_path / "run")
    assert chosen.tuning is not None
    (outcome,) = outcomes(run.records(), run.medians(), chosen.tuning)
    assert outcome.pick is None
    assert {one.cause for one in outcome.rivals} == {"limit"}
    wide = dataclasses.replace(chosen.tuning, limits=Limits())
    (outcome,) = outcomes(run.records(), run.medians(), wide)
    assert outcome.pick is not None
