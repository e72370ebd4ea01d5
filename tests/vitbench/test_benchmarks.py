"""The benchmarks' own arithmetic and their page; they themselves run by `make benchmarks`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.benchmarks import Section, __main__, bench_clock, bench_gate, bench_overhead
from tests.benchmarks import bench_profile as profiling
from tests.vitbench.examples import case, measured, plan
from vitbench.results import journal as journals


def test_share_not_measuring() -> None:
    """Of 100 s with 80 s of measuring a fifth; more measuring than time is a fault."""
    assert bench_overhead.share_not_measuring(100, 80) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="do not fit"):
        bench_overhead.share_not_measuring(10, 11)


def test_passes_are_added_over_a_journal(tmp_path: Path) -> None:
    """Each pass of every outcome."""
    with journals.create(tmp_path / "run", plan()) as journal:
        for index, seconds in enumerate((1.0, 2.0)):
            outcome = measured(spent_s={"build": 0.5, "timing": seconds})
            journal.append(journals.outcome_entry(case(), index, outcome))
    assert bench_overhead.spent(tmp_path / "run") == {"build": 1.0, "timing": 3.0}


def test_readings_are_taken_in_turn() -> None:
    """A B B A, and each pair is (ours, theirs)."""
    order: list[str] = []

    def clock(name: str, seconds: float) -> Callable[[Callable[[], Any]], float]:
        def read(call: Callable[[], Any]) -> float:
            order.append(name)
            return seconds

        return read

    found = bench_clock.in_turn(clock("A", 1.0), clock("B", 2.0), [lambda: None], 4)
    assert "".join(order) == "ABBAABBA"
    assert found == [[(1.0, 2.0)] * 4]


def test_comparisons_of_a_record() -> None:
    """Identical trees are not called, a slower one is; each comparison has blocks of its own."""
    chosen = bench_gate.plan()
    rng = np.random.default_rng(0)
    factors = {"base": 1.0, "same": 1.0, "ten": 1.1}
    taken = [
        bench_gate.Taken(
            block,
            one.id,
            side,
            block * 10.0,
            tuple(
                0.01
                * (factors[side] if one.attention == bench_gate.SLOWED else 1.0)
                * np.exp(shift + rng.normal(0, 0.02, 2))
            ),
        )
        for block in range(40)
        for shift in rng.normal(0, 0.01, 1)
        for one in chosen.cases
        for side in bench_gate.order_of_trees(list(factors), block)
    ]
    same = bench_gate.comparisons(taken, ("base", "same"), chosen, 20, "apart")
    slow = bench_gate.comparisons(taken, ("base", "ten"), chosen, 20, "apart")
    assert len(same) >= 3
    assert {word for one in same for word in one.words.values()} <= {"same", "undecided"}
    assert all(one.alarms == {bench_gate.SLOWED} and one.status == 3 for one in slow)
    for found in (same, slow):
        for one, following in itertools.pairwise(found):
            assert following.first == one.first + one.blocks
    assert bench_gate.block_seconds(taken) == pytest.approx(10.0)


def test_records_are_joined() -> None:
    """Of as many whole blocks as both have."""

    def taken(blocks: int, name: str) -> list[bench_gate.Taken]:
        return [bench_gate.Taken(k, name, "base", 0.0, (1.0,)) for k in range(blocks)]

    found = bench_gate.joined(taken(3, "a"), taken(5, "b"))
    assert {(one.block, one.case) for one in found} == {(k, c) for k in (0, 1) for c in "ab"}


@pytest.mark.parametrize("block", [0, 1, 2, 5])
def test_the_order_of_trees(block: int) -> None:
    """In every two passes each tree has two turns, and each two trees stand A B B A or B A A B."""
    trees = ["base", "same", "five", "ten"]
    order = bench_gate.order_of_trees(trees, block)
    for begin in range(0, len(order), 8):
        for pair in itertools.combinations(trees, 2):
            of_pair = [name for name in order[begin : begin + 8] if name in pair]
            assert of_pair == of_pair[::-1]
            assert set(of_pair) == set(pair)


def test_the_page(tmp_path: Path) -> None:
    """Holds every section that was written, with its machine, its words and its figures."""
    for name in ("b", "a"):
        section = Section(f"Title {name}", f"Text {name}.", [{"x": 1.5}], {"share": 0.25})
        __main__.write(tmp_path, name, section, "a machine")
    text = (tmp_path / "README.md").read_text()
    assert text.index("Title a") < text.index("Title b")
    assert "On a machine." in text
    assert "[a.csv](a.csv)" in text
    assert (tmp_path / "a.csv").read_text() == "x\n1.5\n"
    assert json.loads((tmp_path / "a.json").read_text())["share"] == 0.25


def test_every_benchmark_is_found() -> None:
    """By the name of its file."""
    assert {"clock", "kill", "memory", "overhead", "repeat", "startup"} <= set(__main__.names())


def test_operators_are_timed_by_what_they_do() -> None:
    """Each kind of a call in its own family, and their sum is no more than the call takes."""
    x, table, where = (torch.rand(*s) for s in ((1, 8, 6, 6), (1, 1, 5, 5), (1, 3, 3, 2)))
    calls = {
        profiling.PRODUCTS: lambda: F.conv2d(x, torch.ones(4, 8, 1, 1)),
        profiling.CONVOLUTIONS: lambda: F.conv2d(x, torch.ones(8, 1, 3, 3), groups=8),
        profiling.ATTENTION: lambda: F.scaled_dot_product_attention(x, x, x),
        profiling.SOFTMAX: lambda: x.softmax(dim=-1),
        profiling.CHOOSING: lambda: F.grid_sample(table, where, align_corners=True),
        profiling.MOVING: lambda: x.transpose(1, 2).contiguous(),
        profiling.REST: lambda: x + 1,
    }
    assert list(calls) == list(profiling.FAMILIES)
    for family, call in calls.items():
        with torch.no_grad():
            found = profiling.spent(call)
        assert max(found, key=lambda one: found[one]) == family
        assert {one for one, ms in found.items() if ms > 0} <= {family, profiling.REST}
    assert sum(profiling.spent(lambda: None).values()) == 0


def test_the_profile_is_in_shares_of_eager() -> None:
    """Fused beside eager, and the mean share of what multiplies."""
    idle = dict.fromkeys(profiling.FAMILIES, 0.0)
    rows: list[dict[str, Any]] = [
        {"attention": name, "dtype": "float32", "impl": impl, **idle, **own}
        for name, impl, own in (
            ("a", "eager", {profiling.PRODUCTS: 6.0, profiling.MOVING: 4.0}),
            ("a", "fused", {profiling.PRODUCTS: 3.0, profiling.ATTENTION: 1.0}),
            ("b", "eager", {profiling.REST: 1.0}),
            ("b", "fused", {profiling.REST: 0.5}),
        )
    ]
    found = profiling.section(rows)
    assert found.figures["multiplying_eager_float32"] == pytest.approx(0.3)
    assert found.figures["multiplying_fused_float32"] == pytest.approx(0.5)
    assert "| a | float32 | 60% to 30% | 0% to 0% | 0% to 10% |" in found.text
    assert "| 40% |" in found.text
