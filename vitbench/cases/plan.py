"""Plan: the cases of a run and how each is measured; what it will take. Pure, no torch."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitbench import devices, runtimes
from vitbench.cases import calibration as images
from vitbench.cases.calibration import Calibration
from vitbench.cases.case import Case
from vitbench.cases.shard import Shard
from vitbench.cases.tuning import Tuning
from vitbench.devices import ALLOCATORS, Allocator
from vitbench.errors import BadInput, nearest
from vitbench.instruments.timing import TimingRule

# Named precision: the fields of TimingRule that differ from its defaults. How many rounds each
# takes is for the device to say.
EFFORTS: dict[str, Mapping[str, float]] = {
    "quick": {
        "min_s": 0.15,
        "warmup_s": 0.1,
        "target_noise": 0.02,
        "cap_s": 1.0,
        "warmup_cap_s": 2,
    },
    "default": {},
    "thorough": {"min_samples": 30, "target_noise": 0.005, "cap_s": 15.0},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will do. It stands in the first line of the journal, so a run can be resumed.

    timeout_s           for one case in one round
    threads             of the CPU; None: as many as may be used
    memory_limit_bytes  of the worker on a CPU; None: no limit
    budget_s            the run ends in this time, and takes what precision it buys; None: no budget
    allocator           of the workers: "steady" keeps freed memory, "system" is the C library's own
    autotune            libraries may try their kernels and take the fastest: a user's speed, though
                        processes differ in what they take
    timed               False: cases are checked, counted and their memory measured, once
    published           the published table that stands beside the results; None: none
    reference           what throughputs are divided by beside it; None: the table's first subject
    plugins             mechanisms and backbones of the user's own: name -> file
    weights             the checkpoint of every backbone; None: none
    calibration         the images of backbones in int8; None: there is no such case
    control             the case that every machine measures in each round, by which machines are
                        compared; None: one machine measures all cases
    shard               what part of a larger plan this is; None: it is whole
    tuning              how the best setting is looked for; None: all cases are of interest
    """

    title: str
    suite: str
    device: str
    cases: tuple[Case, ...]
    rounds: int
    rule: TimingRule
    seed: int = 0
    timeout_s: float = 300.0
    threads: int | None = None
    memory_limit_bytes: int | None = None
    budget_s: float | None = None
    allocator: Allocator = "steady"
    autotune: bool = True
    timed: bool = True
    published: str | None = None
    reference: str | None = None
    plugins: Mapping[str, Path] = field(default_factory=dict)
    weights: Path | None = None
    calibration: Calibration | None = None
    control: Case | None = None
    shard: Shard | None = None
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        if not self.cases:
            raise BadInput("the sweep is empty: no case is left to measure")
        check_settings(**{name: getattr(self, name) for name in _SETTINGS})

    def order(self, round_index: int) -> list[Case]:
        """The cases of a round, shuffled so that no case always follows the same other."""
        return shuffled(self.cases, f"{self.seed}-{round_index}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dataclasses.asdict(self) | {
            "cases": [case.to_dict() for case in self.cases],
            "plugins": {name: str(path) for name, path in self.plugins.items()},
            "weights": self.weights and str(self.weights),
            "calibration": self.calibration and self.calibration.to_dict(),
            "control": self.control and self.control.to_dict(),
            "tuning": self.tuning and self.tuning.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of to_dict; older releases wrote `anchor` for `reference`, and the checkpoint
        among the plugins. Raises BadInput for a plan that only another version can read.
        """
        fields = {"reference" if key == "anchor" else key: data[key] for key in data}
        plugins = {name: Path(path) for name, path in data["plugins"].items()}
        old_weights = next((name for name in plugins if _WEIGHTS.fullmatch(name)), "")
        weights = plugins.pop(old_weights, None) or data.get("weights")
        fields |= {"plugins": plugins, "weights": weights and Path(weights)}
        try:
            if (images := data.get("calibration")) is not None:
                fields["calibration"] = Calibration.from_dict(images)
            if (control := data.get("control")) is not None:
                fields["control"] = Case.from_dict(control)
            if (shard := data.get("shard")) is not None:
                fields["shard"] = Shard(**shard | {"slots": tuple(shard["slots"])})
            if (tuning := data.get("tuning")) is not None:
                fields["tuning"] = Tuning.from_dict(tuning)
            fields["cases"] = tuple(Case.from_dict(case) for case in data["cases"])
            return cls(**fields | {"rule": TimingRule(**data["rule"])})
        except TypeError as error:  # a field too many or too few
            raise BadInput(
                f"the run was begun by another version of vitbench, which must continue it: {error}"
            ) from None


def with_control(plan: Plan) -> Plan:
    """The plan for several machines: each also measures the case of middling length, in each
    round. Without times there is nothing to compare machines by."""
    cases = sorted(plan.cases, key=call_s)
    control = cases[len(cases) // 2] if plan.timed else None
    return dataclasses.replace(plan, control=control)


def shuffled(cases: Iterable[Case], seed: str) -> list[Case]:
    """In an order that a seed decides; those of a runtime stand together, since a worker serves no
    other beside it."""
    chance, cases = random.Random(seed), list(cases)
    chance.shuffle(cases)
    groups = list(dict.fromkeys(group_of(case) for case in cases))
    return sorted(cases, key=lambda case: groups.index(group_of(case)))


def group_of(case: Case) -> str:
    """What one worker may serve: one runtime. Threads of libraries wait busily and disturb each
    other, and runtimes are compared by processes of their own."""
    return case.runtime


# The name of a checkpoint in cases; older releases had such names among the plugins too.
_WEIGHTS = re.compile(r"weights_[0-9a-f]{12}")
_SETTINGS = ("allocator", "rounds", "timeout_s", "threads", "memory_limit_bytes", "budget_s")
_WHOLE = ("rounds", "threads", "memory_limit_bytes")


def check_settings(*, allocator: str = "steady", **amounts: float | None) -> None:
    """Raises BadInput for fields of Plan that cannot be right."""
    if allocator not in ALLOCATORS:
        raise BadInput(f"no allocator is called {allocator!r}; {nearest(allocator, ALLOCATORS)}")
    for name, value in amounts.items():
        if value is not None and not 0 < value < math.inf:
            raise BadInput(f"{name} must be positive and finite, got {value}")
        if name in _WHOLE and not isinstance(value, int | None):
            raise BadInput(f"{name} must be a whole number, got {value}")


def effort(name: str) -> Mapping[str, float]:
    """What an effort changes of the timing rule. Raises BadInput for no such effort."""
    if name not in EFFORTS:
        raise BadInput(f"no effort is called {name!r}; {nearest(name, EFFORTS)}")
    return EFFORTS[name]


def rounds_of(name: str, device: str) -> int:
    """How many rounds an effort takes on a device. Raises BadInput for no such effort."""
    effort(name)
    return devices.rules(device).rounds[name]


def rule_of(name: str, device: str, overrides: Mapping[str, float | None]) -> TimingRule:
    """The timing rule of an effort on a device, with what the user sets. Raises BadInput."""
    rules = devices.rules(device)
    fields: dict[str, Any] = {**rules.timing, **effort(name), "energy_s": rules.energy_s[name]}
    own: dict[str, Any] = {key: value for key, value in overrides.items() if value is not None}
    try:
        return dataclasses.replace(warm_on(TimingRule(**fields), device), **own)
    except ValueError as error:
        raise BadInput(str(error)) from None


def warm_on(rule: TimingRule, device: str) -> TimingRule:
    """The rule, with no shorter warm-up than a device needs to raise its clock."""
    calls, seconds = warmup_floor(device)
    return dataclasses.replace(
        rule,
        warmup_calls=max(rule.warmup_calls, calls),
        warmup_s=max(rule.warmup_s, seconds),
        warmup_cap_s=max(rule.warmup_cap_s, seconds),
    )


def warmup_floor(device: str) -> tuple[int, float]:
    """The calls and seconds of warm-up that a device needs at least: what only its user lowers."""
    timing = devices.rules(device).timing
    return timing.get("warmup_calls", 1), timing.get("warmup_s", 0.0)


# Seconds that a worker takes to start and the first-round passes of a case (build, check,
# counting, memory) take, as seen on a 2-core machine.
START_S = 2.5
_PASSES_S = 0.6
_MODEL_PASSES_S = 3.0
# What a call that observes ranges takes, in times of a plain one.
_OBSERVING = 3.0
# MACs of a small backbone at 224 x 224 pixels, alone and under the head of a task.
_MODEL_MACS = {"": 5e9, "semantic_fpn": 9e9, "retinanet": 15e9, "mask_rcnn": 15e9}


def call_s(case: Case) -> float:
    """A rough guess of one call's time: the cost of MSA, or of a small backbone and its head, at a
    rate that such machines reach.
    """
    return _macs(case) / devices.rules(case.device).macs_per_s[case.tensor_dtype]


def _macs(case: Case) -> float:
    if case.backbone:
        area = case.image_height * case.image_width / 224**2
        macs = case.batch_size * area * _MODEL_MACS.get(case.head, _MODEL_MACS[""])
    else:
        tokens = case.grid.tokens
        macs = case.batch_size * (4.0 * tokens * case.dim**2 + 2.0 * tokens**2 * case.dim)
    if case.mode == "forward_backward":
        macs *= 3
    return macs


def case_s(case: Case, rule: TimingRule) -> tuple[float, float]:
    """The least and the most that warm-up and sampling of one case take in one round."""
    once = call_s(case)
    warm_s = max(rule.warmup_s, min(rule.warmup_calls * once, rule.warmup_cap_s + once))
    least = max(rule.min_s, min(rule.min_samples * max(once, rule.sample_s), rule.cap_s))
    most = max(rule.cap_s, rule.cap_samples * once)
    return warm_s + least, warm_s + most


def sizes(plan: Plan) -> list[float]:
    """About how many cases each round measures: all, unless settings are given up."""
    tuning = plan.tuning
    if tuning is None:
        return [float(len(plan.cases))] * plan.rounds
    found, left = [], float(len(plan.cases))
    for index in range(plan.rounds):
        if index < tuning.draws:
            left += tuning.drawn * len(tuning.defaults) / tuning.draws
        found.append(left)
        if 0 < index < tuning.narrowing:
            left = max(left / 2, min(left, 2.0 * len(tuning.defaults)))
    return found


def cost_s(plan: Plan, case: Case) -> float:
    """About what a case takes in all rounds of a plan, for dealing cases out evenly."""
    first, later = overhead_s(case, first_round=True), overhead_s(case, first_round=False)
    timed_s = case_s(case, plan.rule)[1] if plan.timed else 0.0
    return first + (plan.rounds - 1) * later + plan.rounds * timed_s


def overhead_s(case: Case, *, first_round: bool) -> float:
    """What a case takes in a round apart from warm-up and sampling, and from what is converted
    before the first."""
    passes = 0.1
    if first_round:
        passes = (_MODEL_PASSES_S if case.backbone else _PASSES_S) + 4 * call_s(case)
    if first_round and case.backbone:
        # The check in fp64, of two images at most, at half the rate of large products.
        images = min(2, case.batch_size) / case.batch_size
        passes += 2 * images * call_s(dataclasses.replace(case, dtype="float64"))
    rules = runtimes.load(case.runtime).RULES
    is_prepared = rules.converts or not first_round
    return passes + (rules.loading_s if is_prepared else conversion_s(case))


def conversion_s(case: Case, calibration: Calibration | None = None) -> float:
    """What its runtime takes once to make a case ready; of one in int8, with the calls on the
    images of a backbone or the inputs of a layer."""
    rules = runtimes.load(case.runtime).RULES
    is_int8 = case.dtype == runtimes.INT8
    once = rules.int8_conversion_s if is_int8 else rules.conversion_s
    if case.backbone:
        once *= rules.model_conversions
    if is_int8:
        once += images.calls(case.batch_size, calibration) * _OBSERVING * call_s(case)
    return once


def conversions_s(cases: Iterable[Case], calibration: Calibration | None = None) -> float:
    """What a run takes to convert modules before its first round."""
    converted = [case for case in cases if runtimes.load(case.runtime).RULES.converts]
    return sum(conversion_s(case, calibration) for case in converted)


def fixed_s(cases: Sequence[Case], rounds: int, calibration: Calibration | None = None) -> float:
    """What a run takes apart from warm-up and sampling."""
    conversions = conversions_s(cases, calibration)
    starts = rounds * len({group_of(case) for case in cases}) + bool(conversions)
    first = sum(overhead_s(case, first_round=True) for case in cases)
    later = sum(overhead_s(case, first_round=False) for case in cases)
    return conversions + starts * START_S + first + (rounds - 1) * later


def estimate_s(plan: Plan) -> tuple[float, float]:
    """The least and the most that the run takes: noise decides between them."""
    if not plan.timed:
        once = fixed_s(plan.cases, 1, plan.calibration)
        return once, 2 * once
    rounds = sum(sizes(plan)) / len(plan.cases)  # of each case, on the average
    fixed = fixed_s(plan.cases, plan.rounds, plan.calibration)
    if plan.tuning is not None:
        later = sum(overhead_s(case, first_round=False) for case in plan.cases)
        fixed -= (plan.rounds - rounds) * later
    bounds = [case_s(case, plan.rule) for case in plan.cases]
    least, most = (fixed + rounds * sum(side) for side in zip(*bounds, strict=True))
    most += len(plan.cases) * plan.rule.energy_s  # where the device counts it
    if plan.budget_s is not None:
        return min(least, plan.budget_s), plan.budget_s
    return least, most
