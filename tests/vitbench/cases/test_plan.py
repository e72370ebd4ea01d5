"""Plan: order of the rounds, efforts, estimates, and its form in the journal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vitbench.examples import backbone_case, case, plan
from vitbench import devices, runtimes
from vitbench.analysis import stats
from vitbench.cases import plan as plans
from vitbench.cases.calibration import Calibration, calls
from vitbench.cases.plan import Plan
from vitbench.errors import BadInput
from vitbench.instruments.timing import TimingRule

CASES = tuple(case(batch_size=size) for size in range(1, 11))


def test_plan_survives_json() -> None:
    """The first line of the journal gives the plan back."""
    files: dict[str, Any] = {"plugins": {"mine": Path("mine.py")}, "weights": Path("w.pth")}
    one = plan(*CASES, seed=3, threads=2, memory_limit_bytes=2**30, **files)
    assert Plan.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_plans_of_older_releases() -> None:
    """Heads and checkpoints were among other things; a plan that is too new is refused."""
    settings = {"alpha": 0.5, "head": "retinanet", "weights": "weights_0123456789ab"}
    new = backbone_case(head="retinanet", weights="weights_0123456789ab")
    new = dataclasses.replace(new, params=(("alpha", 0.5),))
    old = new.to_dict() | {"params": settings, "compiled": False, "cuda_graph": False}
    for name in ("head", "weights", "runtime"):
        del old[name]
    data = plan(new).to_dict() | {"cases": [old], "anchor": "msa"}
    data["plugins"] = {"mine": "mine.py", "weights_0123456789ab": "w.pth"}
    del data["weights"], data["reference"]
    read = Plan.from_dict(data)
    assert read.cases == (new,)
    assert (read.plugins, read.weights) == ({"mine": Path("mine.py")}, Path("w.pth"))
    assert read.reference == "msa"
    for newer in ({"colour": "red"}, {"cases": [old | {"colour": "red"}]}, {"rule": {"colour": 1}}):
        with pytest.raises(BadInput, match=r"begun by another version of vitbench.* 'colour'"):
            Plan.from_dict(plan().to_dict() | newer)


@given(seed=st.integers(0, 1000), round_index=st.integers(0, 20))
def test_a_round_is_every_case_once(seed: int, round_index: int) -> None:
    """The order is a permutation, the same for the same seed and round."""
    one = plan(*CASES, seed=seed)
    order = one.order(round_index)
    assert len(order) == len(CASES)
    assert set(order) == set(CASES)
    assert order == one.order(round_index)


def test_rounds_are_shuffled_apart() -> None:
    """Neither the plan's order nor that of the round before: neighbours change."""
    orders = {tuple(plan(*CASES, seed=seed).order(i)) for seed in (0, 1) for i in range(6)}
    assert len(orders | {CASES}) == 13


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cases": ()}, "empty"),
        ({"rounds": -1}, "rounds must be positive.*, got -1"),
        ({"timeout_s": 0.0}, "timeout_s must be positive"),
        ({"threads": 0}, "threads must be positive"),
        ({"memory_limit_bytes": 0}, "memory_limit_bytes must be positive"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": float("inf")}, "timeout_s"),
    ],
)
def test_a_plan_that_measures_nothing_is_refused(changes: dict[str, Any], words: str) -> None:
    """No cases, no rounds, no time, no thread, no memory: one sentence."""
    with pytest.raises(BadInput, match=words):
        plan(**changes) if "cases" in changes else plan(case(), **changes)


def test_efforts_differ_in_precision() -> None:
    """More effort never takes fewer rounds, nor accepts more noise; a GPU warms up for longer."""
    names = ("quick", "default", "thorough")
    rounds = [plans.rounds_of(name, "cpu") for name in names]
    noises = [plans.rule_of(name, "cpu", {}).target_noise for name in names]
    assert rounds == sorted(rounds)
    assert noises == sorted(noises, reverse=True)
    assert plans.rounds_of("default", "cpu") == 3
    assert plans.rounds_of("default", "cuda:1") == stats.RANK_ROUNDS
    assert plans.rule_of("default", "cpu", {}) == TimingRule(energy_s=2.0)
    for device in ("cpu", "cuda"):  # it would double a quick run's time
        assert plans.rule_of("quick", device, {}).energy_s == 0
        assert plans.rule_of("default", device, {}).energy_s == 2
    rule = plans.rule_of("default", "cuda", {})
    assert (rule.warmup_calls, rule.warmup_s, rule.sample_s) == (10, 0.5, 0.001)


def test_what_the_user_sets_wins() -> None:
    """An override replaces the effort's value; None leaves it."""
    rule = plans.rule_of("quick", "cuda", {"cap_s": 0.25, "min_s": None, "warmup_s": 0.0})
    quick = plans.rule_of("quick", "cuda", {})
    assert (rule.cap_s, rule.min_s, rule.warmup_s) == (0.25, quick.min_s, 0.0)


ACCELERATORS = [kind for kind in devices.names() if not devices.rules(kind).is_host]


@pytest.mark.parametrize("device", ACCELERATORS)
def test_two_runs_can_be_compared(device: str) -> None:
    """Those of the default effort by ranks, which know no spread of fewer rounds."""
    rounds = [plans.rounds_of(name, device) for name in plans.EFFORTS]
    assert rounds == sorted(rounds)
    assert rounds[1] >= stats.RANK_ROUNDS


@pytest.mark.parametrize("device", ACCELERATORS)
@pytest.mark.parametrize("effort", plans.EFFORTS)
def test_a_device_warms_up_before_it_is_timed(device: str, effort: str) -> None:
    """As long as its clock takes to rise: by any effort, and by a rule of a command's own."""
    needed = devices.rules(device).timing
    of_effort = plans.rule_of(effort, device, {})
    short = dataclasses.replace(of_effort, warmup_calls=1, warmup_s=0.01, warmup_cap_s=0.02)
    for rule in (of_effort, plans.warm_on(short, device)):
        assert rule.warmup_calls >= needed["warmup_calls"]
        assert rule.warmup_cap_s >= rule.warmup_s >= needed["warmup_s"] > 0.1
    assert plans.warm_on(short, "cpu") == short


def test_what_cannot_be_is_one_sentence() -> None:
    """A rule in the words of its field; an effort with the name that was meant."""
    for name in ("cap_s", "min_s", "target_noise", "min_samples", "energy_s"):
        with pytest.raises(BadInput, match=name):
            plans.rule_of("quick", "cpu", {name: -1})
    with pytest.raises(BadInput, match="'quik'; nearest: quick"):
        plans.rounds_of("quik", "cpu")


def test_estimates_follow_the_rule() -> None:
    """The least is not above the most; more rounds and cases take longer."""
    rule = TimingRule()
    for one in (case(), case(batch_size=64, dim=768, num_heads=12, grid_height=50, grid_width=50)):
        least, most = plans.case_s(one, rule)
        assert 0 < least <= most
    short, long = plan(CASES[0]), plan(*CASES)
    assert plans.estimate_s(short) < plans.estimate_s(long)
    assert plans.estimate_s(short) < plans.estimate_s(plan(CASES[0], rounds=5))
    assert plans.call_s(case(mode="forward_backward")) > plans.call_s(case())


CONVERTING = [name for name in runtimes.names() if runtimes.load(name).RULES.converts]


@pytest.mark.parametrize("runtime", CONVERTING)
def test_a_conversion_is_paid_once_a_run(runtime: str) -> None:
    """However many rounds follow, in a process before the first of them; each loads the file."""
    eager, converted = case(), case(runtime=runtime)
    rules = runtimes.load(runtime).RULES
    for rounds in (1, 5):
        more_s = plans.fixed_s([converted], rounds) - plans.fixed_s([eager], rounds)
        once_s = rules.conversion_s + plans.START_S
        assert more_s == pytest.approx(once_s + rounds * rules.loading_s)


IMAGES = Calibration(folder=None, images=12, sha256="")
INT8 = [name for name in CONVERTING if runtimes.load(name).RULES.int8_packages is not None]


@pytest.mark.parametrize("runtime", INT8)
def test_quantizing_takes_longer(runtime: str) -> None:
    """Than converting alone; of a whole model longer than of a layer, and longer on more images,
    as many of which as a batch holds are one call."""
    layer, model = case(runtime=runtime), backbone_case(runtime=runtime)
    layer8, model8 = (dataclasses.replace(one, dtype="int8") for one in (layer, model))
    layer_s, model_s = plans.conversion_s(layer), plans.conversion_s(model)
    layer8_s, model8_s = plans.conversion_s(layer8), plans.conversion_s(model8, IMAGES)
    assert layer_s < layer8_s < model8_s
    assert layer_s < model_s < model8_s
    assert model_s == layer_s * runtimes.load(runtime).RULES.model_conversions
    more = dataclasses.replace(IMAGES, images=120)
    assert plans.conversion_s(model8, more) > model8_s
    plain, on_more = plan(model8, calibration=IMAGES), plan(model8, calibration=more)
    assert plans.estimate_s(on_more) > plans.estimate_s(plain)
    assert (calls(50, IMAGES), calls(5, IMAGES)) == (1, 3)


def test_compiling_is_paid_once_a_run() -> None:
    """Later rounds read what the first compiled."""
    rules = runtimes.load("compile").RULES
    first, later = (
        plans.overhead_s(case(runtime="compile"), first_round=is_first)
        - plans.overhead_s(case(), first_round=is_first)
        for is_first in (True, False)
    )
    assert first == pytest.approx(rules.conversion_s)
    assert later == pytest.approx(rules.loading_s)
    assert 2 * later < first


def test_each_runtime_starts_a_process_in_each_round() -> None:
    """Two of them cost another start a round."""
    both = [case(), case(runtime="cuda-graph")]
    more_s = plans.fixed_s(both, 3) - sum(plans.fixed_s([one], 3) for one in both)
    assert more_s == pytest.approx(0)


def test_a_head_costs() -> None:
    """Detection takes longer than segmentation, that longer than classification; a look at one
    longer than a call and its check in fp64, which two images of a batch are."""
    size = {"image_height": 512, "image_width": 512}
    plain = backbone_case(**size)
    semantic, retina = (
        dataclasses.replace(plain, head=head) for head in ("semantic_fpn", "retinanet")
    )
    assert plans.call_s(plain) < plans.call_s(semantic) < plans.call_s(retina)
    looks = [plans.overhead_s(one, first_round=True) for one in (plain, semantic, retina)]
    assert looks == sorted(looks)
    assert looks[2] > 5 * plans.call_s(retina) > 5 * plans.overhead_s(retina, first_round=False)
    checks = [
        plans.overhead_s(one, first_round=True) - 4 * plans.call_s(one)
        for one in (dataclasses.replace(retina, batch_size=size) for size in (1, 2, 16))
    ]
    assert checks[0] < checks[1] == pytest.approx(checks[2])
