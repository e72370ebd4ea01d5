"""A budget of time: how many rounds fit into it, and how long each case may take. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from vitbench import instruments, runtimes
from vitbench.analysis import stats
from vitbench.cases import plan as plans
from vitbench.cases.calibration import Calibration
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.errors import BadInput
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Measured

MIN_ROUNDS = 2
MAX_ROUNDS = 20
# Charts, tables, and the planning before the clock starts.
_END_S = 10.0
# The shortest that warm-up and sampling are worth: two calls and three samples, or this.
_LEAST_S = 0.1
# Passes that only the first round makes.
_FIRST_ROUND = ("check", *instruments.names())


def rounds_in(
    budget_s: float,
    cases: Sequence[Case],
    rule: TimingRule,
    calibration: Calibration | None = None,
) -> int:
    """How many rounds to plan. Processes differ more than the samples of one do, so time that a
    round cannot use well goes to another round. Raises BadInput where not even a short sample of
    each case fits.
    """
    comfortable_s = len(cases) * (rule.warmup_s + rule.cap_s / 2)

    def needed_s(rounds: int) -> float:
        return _END_S + plans.fixed_s(cases, rounds, calibration) + rounds * comfortable_s

    rounds = MIN_ROUNDS
    while rounds < MAX_ROUNDS and needed_s(rounds + 1) <= budget_s:
        rounds += 1
    while rounds > 1 and least_s(cases, rule, rounds, calibration) > budget_s:
        rounds -= 1
    check(budget_s, cases, rule, rounds, calibration)
    return rounds


def check(
    budget_s: float,
    cases: Sequence[Case],
    rule: TimingRule,
    rounds: int,
    calibration: Calibration | None = None,
) -> None:
    """Raises BadInput where the rounds do not fit even with the shortest samples."""
    least = least_s(cases, rule, rounds, calibration)
    if least > budget_s:
        raise BadInput(
            f"a budget of {budget_s:g} s is too short for {len(cases)} cases in {rounds} "
            f"{'round' if rounds == 1 else 'rounds'}: it takes at least {math.ceil(least)} s; "
            "give more time, fewer cases or fewer rounds"
        )


def least_s(
    cases: Sequence[Case],
    rule: TimingRule,
    rounds: int,
    calibration: Calibration | None = None,
) -> float:
    """What the rounds take with the shortest samples."""
    of_a_round_s = sum(_floor_s(case, plans.call_s(case), rule) for case in cases)
    return _END_S + plans.fixed_s(cases, rounds, calibration) + rounds * of_a_round_s


def _floor_s(case: Case, call_s: float, rule: TimingRule) -> float:
    return _warmup_floor_s(case, rule) + max(_LEAST_S, (2 + rule.cap_samples) * call_s)


def _warmup_floor_s(case: Case, rule: TimingRule) -> float:
    """What the device needs, or the less that its user set."""
    return min(rule.warmup_s, plans.warmup_floor(case.device)[1])


def samples_each(plan: Plan) -> int:
    """About how many samples a case will have, over all rounds, when all time is used."""
    assert plan.budget_s is not None
    fixed_s = plans.fixed_s(plan.cases, plan.rounds, plan.calibration)
    free_s = plan.budget_s - _END_S - fixed_s
    slot_s = free_s / (plan.rounds * len(plan.cases))
    calls = sorted(plans.call_s(case) for case in plan.cases)
    sample_s = max(plan.rule.sample_s, calls[len(calls) // 2])
    return max(plan.rule.cap_samples, int(_SHARE["cap_s"] * slot_s / sample_s)) * plan.rounds


def half_width(scatter: float, samples: int) -> float:
    """Relative half-width of the 95% interval of the median of normal samples whose standard
    deviation is `scatter` of it: 1.96 times sqrt(pi / 2) scatter / sqrt(samples)."""
    return 1.96 * math.sqrt(math.pi / 2) * scatter / math.sqrt(samples)


# What the fields of the rule may take of a case's time.
_SHARE = {"warmup_s": 0.2, "warmup_cap_s": 0.3, "min_s": 0.4, "cap_s": 0.7}


@dataclass(slots=True)
class TimeBudget:
    """The time that is left, allocated anew before each case: what one leaves goes to the others.

    ends_s  when the budget is spent, on the clock that `now_s` is read from
    """

    plan: Plan
    ends_s: float
    _known_call_s: dict[str, float] = field(default_factory=dict)
    _known_overhead_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, plan: Plan, now_s: float) -> TimeBudget | None:
        """None where the plan has no budget. It begins now, also for a run that is resumed."""
        return None if plan.budget_s is None else cls(plan, now_s + plan.budget_s - _END_S)

    def is_spent(self, now_s: float) -> bool:
        return now_s >= self.ends_s

    def allocate(
        self, case: Case, open_slots: Iterable[tuple[Case, int]], now_s: float
    ) -> TimingRule:
        """The rule for a case when these (case, round) are left to measure, its own among them."""
        rule, slots = self.plan.rule, list(open_slots)
        floors_s = sum(_floor_s(other, self._call_s(other), rule) for other, _ in slots)
        spare_s = self.ends_s - now_s - self._fixed_s(slots) - floors_s
        slot_s = _floor_s(case, self._call_s(case), rule) + max(0.0, spare_s) / len(slots)
        warm_s = _warmup_floor_s(case, rule)
        limits = {name: share * (slot_s - warm_s) for name, share in _SHARE.items()}
        for name in ("warmup_s", "warmup_cap_s"):
            limits[name] = max(limits[name], warm_s)
        # The effort's cap does not count here: the allocated time may be used.
        least = {name: min(getattr(rule, name), limits[name]) for name in limits if name != "cap_s"}
        return replace(rule, **least, cap_s=limits["cap_s"])

    def update(self, case: Case, outcome: Measured) -> None:
        """Replaces the estimates of a case by what it took."""
        self._known_call_s[case.id] = stats.median(outcome.samples_s)
        later = {name: s for name, s in outcome.spent_s.items() if name not in _FIRST_ROUND}
        if outcome.compile_s is not None and not outcome.is_cached:  # which later rounds read
            later["prepare"] = runtimes.load(case.runtime).RULES.loading_s
        self._known_overhead_s[case.id] = sum(later.values())

    def _call_s(self, case: Case) -> float:
        return self._known_call_s.get(case.id, plans.call_s(case))

    def _fixed_s(self, slots: Sequence[tuple[Case, int]]) -> float:
        """What is not timing: workers to start, and the passes before each case."""
        known = self._known_overhead_s
        workers = {(index, plans.group_of(case)) for case, index in slots}
        return plans.START_S * (len(workers) - 1) + sum(
            known[case.id] if case.id in known else plans.overhead_s(case, first_round=index == 0)
            for case, index in slots
        )
