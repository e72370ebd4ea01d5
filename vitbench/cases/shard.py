"""Shards: a plan in parts, each of which one machine measures, and the whole of them. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitbench.errors import BadInput

if TYPE_CHECKING:
    from vitbench.cases.case import Case
    from vitbench.cases.plan import Plan

# Fields of a plan that are of the machine where it was made: where files lie, what memory is free.
_OF_MACHINE = ("plugins", "weights", "memory_limit_bytes", "shard")


@dataclass(frozen=True, slots=True)
class Shard:
    """A part of a plan.

    number  from 1 to count
    slots   positions of its cases in the whole plan
    whole   identity of that
    """

    number: int
    count: int
    slots: tuple[int, ...]
    whole: str

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"


def parse(text: str) -> tuple[int, int]:
    """`3/16` -> 3, 16. Raises BadInput."""
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise BadInput(f"--shard is a part of a number of parts, from 1/16 to 16/16, got {text!r}")
    return int(match[1]), int(match[2])


def identity(plan: Plan) -> str:
    """What machines that plan the same agree on: a hash of the plan's content."""
    content = {name: value for name, value in plan.to_dict().items() if name not in _OF_MACHINE}
    if plan.calibration is not None:
        content["calibration"] = plan.calibration.sha256
    content["plugins"] = sorted(plan.plugins)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def deal(cases: Sequence[Case], count: int, cost: Callable[[Case], float]) -> list[list[int]]:
    """Positions of the cases in each of so many parts of about equal cost: the dearest first, each
    to the part that has the least."""
    parts: list[list[int]] = [[] for _ in range(count)]
    costs = [0.0] * count
    for slot in sorted(range(len(cases)), key=lambda slot: -cost(cases[slot])):
        least = min(range(count), key=lambda part: (costs[part], len(parts[part])))
        parts[least].append(slot)
        costs[least] += cost(cases[slot])
    return [sorted(part) for part in parts]


def part_of(plan: Plan, number: int, count: int, cost: Callable[[Case], float]) -> Plan:
    """The plan of shard `number` of `count`. Raises BadInput where there are too few cases."""
    if count > len(plan.cases):
        raise BadInput(
            f"--shard {number}/{count}: the plan has {len(plan.cases)} cases, so at most "
            f"{len(plan.cases)} shards"
        )
    slots = tuple(deal(plan.cases, count, cost)[number - 1])
    shard = Shard(number, count, slots, identity(plan))
    return dataclasses.replace(plan, cases=tuple(plan.cases[slot] for slot in slots), shard=shard)


def whole_of(parts: Mapping[str, Plan]) -> Plan:
    """The plan whose shards these are, by a name of each. Raises BadInput where they are not all
    its shards, each once."""
    shards = _shards(parts)
    cases: dict[int, Case] = {}
    for name, shard in shards.items():
        for slot, case in zip(shard.slots, parts[name].cases, strict=False):
            if cases.setdefault(slot, case) != case:
                raise BadInput(f"{name} holds a case that another shard holds too: {case.id}")
    first = min(shards, key=lambda name: shards[name].number)
    in_order = tuple(case for _, case in sorted(cases.items()))
    whole = dataclasses.replace(parts[first], cases=in_order, shard=None)
    if identity(whole) != shards[first].whole:
        raise BadInput(f"{first} and the other shards do not make up the plan that they are of")
    return whole


def _shards(parts: Mapping[str, Plan]) -> Mapping[str, Shard]:
    """What each part is. Raises BadInput where they are not all shards of a plan, each once."""
    shards = {name: plan.shard for name, plan in parts.items() if plan.shard is not None}
    for name in parts:
        if name not in shards:
            raise BadInput(f"{name} is no shard: its run measured a whole plan")
    first, shard = next(iter(shards.items()))
    names: dict[int, str] = {}
    for name, other in shards.items():
        if (other.whole, other.count) != (shard.whole, shard.count):
            raise BadInput(f"{name} is a shard of another plan than {first}: plan them alike")
        if names.setdefault(other.number, name) != name:
            raise BadInput(f"{names[other.number]} and {name} are both shard {other}: give one")
    if missing := [str(n) for n in range(1, shard.count + 1) if n not in names]:
        text = f"{', '.join(missing[:10])}{', ...' if len(missing) > 10 else ''}"
        raise BadInput(f"of {shard.count} shards {len(missing)} are not given: {text}")
    return shards
