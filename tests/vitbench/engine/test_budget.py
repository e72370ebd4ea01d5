"""A budget: rounds that fit, time allocated over what is left, and the end in time."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vitbench.examples import case, measured, plan
from vitbench.analysis import stats
from vitbench.cases import plan as plans
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.engine import budget
from vitbench.engine.budget import TimeBudget
from vitbench.errors import BadInput
from vitbench.instruments.timing import TimingRule

CASES = tuple(case(batch_size=size) for size in range(1, 11))


def budgeted(
    budget_s: float, rule: TimingRule | None = None, cases: tuple[Case, ...] = CASES
) -> Plan:
    """A plan as make_plan makes it."""
    chosen = rule or TimingRule()
    rounds = budget.rounds_in(budget_s, cases, chosen)
    return dataclasses.replace(plan(*cases), budget_s=budget_s, rounds=rounds, rule=chosen)


@given(budget_s=st.floats(60, 1e5), more=st.floats(1, 10))
def test_more_time_never_buys_fewer_rounds(budget_s: float, more: float) -> None:
    """Two rounds at least where they fit, and no more than twenty."""
    rounds = [
        budget.rounds_in(time_s, CASES, TimingRule()) for time_s in (budget_s, more * budget_s)
    ]
    assert rounds == sorted(rounds)
    assert all(2 <= count <= budget.MAX_ROUNDS for count in rounds)
    assert budget.least_s(CASES, TimingRule(), rounds[0]) <= budget_s


def test_a_budget_that_holds_nothing_is_refused() -> None:
    """With the least that does; and that one is accepted."""
    with pytest.raises(
        BadInput, match=r"a budget of 5 s .* 10 cases in 1 round: .* at least (\d+) s"
    ) as caught:
        budget.rounds_in(5, CASES, TimingRule())
    least = int(str(caught.value).split("at least ")[1].split(" s")[0])
    assert budget.rounds_in(least, CASES, TimingRule()) == 1
    with pytest.raises(BadInput, match="in 9 rounds"):
        budget.check(least, CASES, TimingRule(), 9)


def carry_out(one: Plan, slower: float, overhead_s: float, seed: int, noisy: bool) -> float:
    """Seconds that a run takes when calls take `slower` times what was guessed and a pass
    `overhead_s`; a quiet case is done when its least time is over."""
    rng, now_s = random.Random(seed), 0.0
    time_budget = TimeBudget.of(one, now_s)
    assert time_budget is not None
    left = [(c, index) for index in range(one.rounds) for c in one.cases]
    for index in range(one.rounds):
        now_s += 3.0
        for current in one.order(index):
            if time_budget.is_spent(now_s):
                return now_s
            rule = time_budget.allocate(current, left, now_s)
            left.remove((current, index))
            call_s = slower * plans.call_s(current)
            warm_s = max(rule.warmup_s, 2 * call_s)
            wanted_s = rule.cap_s if noisy or rng.random() < 0.3 else rule.min_s
            sampling_s = max(wanted_s, rule.cap_samples * call_s)
            now_s += overhead_s + warm_s + sampling_s
            time_budget.update(
                current, measured(call_s, spent_s={"build": overhead_s, "timing": warm_s})
            )
    return now_s


@settings(max_examples=25)
@given(
    budget_s=st.floats(60, 600),
    slower=st.floats(0.2, 50),
    overhead_s=st.floats(0.0, 1.5),
    seed=st.integers(0, 99),
    noisy=st.booleans(),
)
def test_it_ends_in_time(
    budget_s: float, slower: float, overhead_s: float, seed: int, noisy: bool
) -> None:
    """However wrong the guesses were: within the budget and one case of it."""
    one = budgeted(budget_s)
    longest_s = 5 * slower * max(plans.call_s(c) for c in CASES) + overhead_s
    took_s = carry_out(one, slower, overhead_s, seed, noisy)
    assert took_s <= budget_s + longest_s


def test_a_noisy_run_uses_its_time() -> None:
    """Where every case wants more, most of the budget is spent on it."""
    assert carry_out(budgeted(300), slower=1, overhead_s=0.3, seed=0, noisy=True) > 0.75 * 300


def test_what_one_leaves_goes_to_the_others() -> None:
    """The same case gets more time when those before it were done early."""
    one = budgeted(120)
    time_budget = TimeBudget.of(one, 0.0)
    assert time_budget is not None
    left = [(c, 0) for c in CASES]
    early, late = (
        time_budget.allocate(CASES[0], left, 30.0),
        time_budget.allocate(CASES[0], left, 60.0),
    )
    assert early.cap_s > late.cap_s > 0
    alone = time_budget.allocate(CASES[0], left[:1], 60.0)
    assert alone.cap_s > 5 * late.cap_s


@given(now_s=st.floats(0, 1000))
def test_a_rule_is_never_impossible(now_s: float) -> None:
    """Also when the time is over: three samples can still be taken."""
    time_budget = TimeBudget.of(budgeted(100), 0.0)
    assert time_budget is not None
    rule = time_budget.allocate(CASES[0], [(CASES[0], 1)], now_s)
    assert 0 < rule.min_s <= rule.cap_s
    assert 0 < rule.warmup_s <= rule.warmup_cap_s
    assert rule.target_noise == TimingRule().target_noise


GPU_CASES = tuple(dataclasses.replace(one, device="cuda") for one in CASES)


@given(budget_s=st.floats(60, 600), now_s=st.floats(0, 700), left=st.integers(1, 10))
def test_no_budget_shortens_the_warm_up_of_a_gpu(budget_s: float, now_s: float, left: int) -> None:
    """Below what its clock takes to rise; only its user does that."""
    for warmup_s in (0.0, None):
        rule = plans.rule_of("quick", "cuda", {"warmup_s": warmup_s})
        least_s = 0.0 if warmup_s == 0 else plans.warmup_floor("cuda")[1]
        time_budget = TimeBudget.of(budgeted(budget_s, rule, GPU_CASES), 0.0)
        assert time_budget is not None
        slots = [(one, 1) for one in GPU_CASES[:left]]
        allocated = time_budget.allocate(GPU_CASES[0], slots, now_s)
        assert allocated.warmup_cap_s >= allocated.warmup_s >= least_s


def test_a_budget_on_a_gpu_ends_in_time() -> None:
    """Its warm-ups are part of the least that a budget is asked for."""
    rule = plans.rule_of("quick", "cuda", {})
    for budget_s in (40.0, 100.0):
        one = budgeted(budget_s, rule, GPU_CASES)
        assert carry_out(one, slower=1, overhead_s=0.1, seed=0, noisy=True) <= budget_s


def test_the_promised_precision() -> None:
    """Medians of normal samples scatter as the sentence before the run says."""
    rng = np.random.default_rng(0)
    samples = rng.normal(1.0, 0.1, size=(2000, 200))
    medians = np.median(samples, axis=1)
    promised = budget.half_width(0.1, 200)
    inside = np.mean(np.abs(medians - 1) < promised)
    assert 0.93 < inside < 0.97
    widths = [stats.noise(row.tolist()) for row in samples[:200]]
    assert np.mean(widths) == pytest.approx(promised, rel=0.15)
    assert budget.samples_each(budgeted(600)) > budget.samples_each(budgeted(100)) > 0
