"""Parts of a plan: each case in one of them, all parts about as dear, and the whole of them."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vitbench.examples import case, plan
from vitbench.cases import plan as plans
from vitbench.cases import shard
from vitbench.cases.plan import Plan
from vitbench.errors import BadInput

CASES = tuple(case(batch_size=size) for size in range(1, 8))
WHOLE = plans.with_control(plan(*CASES))


def part(number: int, count: int, whole: Plan = WHOLE) -> Plan:
    """One of the parts, of cases that cost their batch size."""
    return shard.part_of(whole, number, count, lambda one: float(one.batch_size))


@given(st.lists(st.floats(0.1, 100), min_size=1, max_size=60), st.integers(1, 20))
def test_each_case_is_dealt_once_and_evenly(costs: list[float], count: int) -> None:
    """No part costs more than the least by more than one case does, which is what dealing the
    dearest first promises."""
    cases = [case(batch_size=index + 1) for index in range(len(costs))]
    parts = shard.deal(cases, count, lambda one: costs[one.batch_size - 1])
    assert sorted(slot for slots in parts for slot in slots) == list(range(len(costs)))
    sums = [sum(costs[slot] for slot in slots) for slots in parts]
    assert max(sums) - min(sums) <= max(costs) + 1e-6


@given(st.integers(1, len(CASES)), st.randoms())
def test_the_parts_are_the_whole(count: int, chance: random.Random) -> None:
    """Whatever order they come in, and after they were written as JSON."""
    parts = [part(number, count) for number in range(1, count + 1)]
    chance.shuffle(parts)
    again = [Plan.from_dict(json.loads(json.dumps(one.to_dict()))) for one in parts]
    assert again == parts
    assert shard.whole_of({str(i): one for i, one in enumerate(again)}) == WHOLE


def test_what_is_of_the_machine_tells_no_plans_apart() -> None:
    """Where files lie and how much memory is free; the seed, the rule and the cases do."""
    of_machine: dict[str, Any] = {"weights": Path("/a"), "memory_limit_bytes": 2**33}
    changed: dict[str, Any] = {"seed": 1, "rounds": 3, "cases": CASES[1:], "timeout_s": 9.0}
    for fields, is_same in ((of_machine, True), (changed, False)):
        for name, value in fields.items():
            other = dataclasses.replace(WHOLE, **{name: value})
            assert (shard.identity(other) == shard.identity(WHOLE)) == is_same, name


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"a": part(1, 3), "b": part(3, 3)}, "of 3 shards 1 are not given: 2"),
        ({"a": part(1, 2), "b": part(1, 2)}, "a and b are both shard 1/2: give one"),
        ({"a": part(1, 2), "b": part(2, 3)}, "b is a shard of another plan than a"),
        ({"a": part(1, 2), "b": WHOLE}, "b is no shard: its run measured a whole plan"),
        (
            {"a": part(1, 2), "b": part(2, 2, dataclasses.replace(WHOLE, seed=1))},
            "b is a shard of another plan than a",
        ),
        (
            {"a": part(1, 2), "b": dataclasses.replace(part(2, 2), cases=CASES[:3])},
            "do not make up the plan",
        ),
    ],
)
def test_what_is_no_whole(parts: dict[str, Plan], sentence: str) -> None:
    """A part that is missing, twice, of another plan, or changed, is named."""
    with pytest.raises(BadInput, match=sentence):
        shard.whole_of(parts)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "1/2/3", "-1/3", "1.5/3", ""])
def test_what_is_no_part(text: str) -> None:
    """One sentence says what a part is."""
    with pytest.raises(BadInput, match="from 1/16 to 16/16, got"):
        shard.parse(text)


def test_there_are_no_empty_parts() -> None:
    """More parts than cases are refused."""
    with pytest.raises(BadInput, match="the plan has 7 cases, so at most 7 shards"):
        part(1, 8)
