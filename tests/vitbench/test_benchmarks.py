"""The benchmarks' own arithmetic and their page; they themselves run by `make benchmarks`."""

from __future__ import annotations

import itertools
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import attentions
from tests.benchmarks import Section, __main__, bench_gate, bench_overhead, gate_record, page
from tests.benchmarks import bench_profile as profiling
from tests.benchmarks import bench_runtimes as beside_tools
from tests.benchmarks.side_by_side import interleave
from tests.vitbench.examples import case, measured, plan
from vitbench.engine import ab
from vitbench.results import journal as journals


def test_only_quiet_cycles_judge_a_runtime() -> None:
    """A busy one says nothing of it; without a quiet one the goal is not known."""
    quiet = {"runtime": "openvino", "attention": "msa", "tool": "its tool", "neighbour_cores": 0.0}
    quiet |= {"ours_s": 0.00505, "theirs_s": 0.005}
    busy = quiet | {"ours_s": 0.01, "neighbour_cores": 1.0}
    other = busy | {"runtime": "executorch"}
    section = beside_tools.section([quiet, busy, busy, other])
    assert section.figures == {"openvino_msa": pytest.approx(1.01), "openvino": pytest.approx(1.01)}
    assert "Goal for openvino: within 3%: met (+1.0%)." in section.text
    assert "Goal for executorch: within 3%: not known, since no cycle was quiet." in section.text
    assert "1 of 3" in section.text


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


@pytest.mark.parametrize("order", ["ABBABAABABBA", "ABCCBABCAACBCABBAC"])
def test_variants_are_read_in_turns(order: str) -> None:
    """There and back in each cycle, which begins with the next variant; each keeps its readings."""
    taken: list[str] = []

    def read(name: str) -> int:
        taken.append(name)
        return len(taken)

    names = sorted(set(order))
    readings = interleave({name: partial(read, name) for name in names}, 3)
    assert "".join(taken) == order
    for name in names:
        assert [order[number - 1] for number in readings[name]] == [name] * 6


def blocks_of(count: int) -> list[gate_record.Block]:
    """Blocks of identical code: 2% between readings, 1% between blocks."""
    rng = np.random.default_rng(0)

    def turns(first: int) -> list[ab.Slice]:
        shift = rng.normal(0, 0.01)
        order = ab.slice_order(ab.Rules().abba_cycles, first)
        readings = [0.01 * np.exp(rng.normal(shift, 0.02, 2)) for _ in order]
        return [(side, one.tolist()) for side, one in zip(order, readings, strict=True)]

    return [{name: turns(k % 2) for name in gate_record.NAMES} for k in range(count)]


def test_comparisons_of_a_record() -> None:
    """Identical code is not called; of a head that is slower by 10% that mechanism is, alone."""
    blocks = blocks_of(40)
    same = gate_record.comparisons(blocks, 1.0, 20, 2)
    slow = gate_record.comparisons(blocks, 1.1, 20, 2)
    assert {word for one in same for word in one.words.values()} <= {"same", "undecided"}
    assert [(one.called, one.status) for one in slow] == [({gate_record.SLOWED}, 3)] * 2
    fewest = ab.blocks_needed(len(gate_record.NAMES))
    assert all(fewest <= one.blocks <= 40 for one in same + slow)


def test_a_record_is_what_ab_writes(tmp_path: Path) -> None:
    """The readings of a comparison on a record are that record, as far as it went."""
    blocks = blocks_of(20)
    compared = gate_record.compare(blocks, 20, tmp_path)
    assert compared is not None
    read = gate_record.read_blocks(tmp_path / ab.READINGS)
    assert len(read) >= ab.blocks_needed(len(gate_record.NAMES))
    for mine, block in zip(read, blocks, strict=False):
        for name, turns in mine.items():
            for (side, samples), (recorded_side, recorded) in zip(turns, block[name], strict=True):
                assert side == recorded_side
                assert samples == pytest.approx(recorded, rel=1e-5)


def test_a_slower_tree_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call lasts so many times as long as it did, and returns what it returned before."""
    outputs, spent = [], []
    for factor in (1.0, 5.0):
        folder = gate_record.tree(tmp_path / str(factor), factor)
        spec = attentions.load_file(folder / "attentions" / f"{gate_record.SLOWED}.py")
        torch.manual_seed(0)
        module = spec.build(32, 2, attentions.Grid(4, 4), impl="fused")
        ticks = itertools.count()
        with monkeypatch.context() as patch:
            patch.setattr(time, "perf_counter", lambda ticks=ticks: float(next(ticks)))
            outputs.append(module(torch.ones(1, 4, 4, 32)))
        spent.append(next(ticks) - 1)
    assert torch.equal(*outputs)
    assert spent == [-1, 5]


def test_a_finished_stage_is_not_run_again(tmp_path: Path) -> None:
    """Its result is read from the folder; without a folder it runs each time."""
    numbers = itertools.count()
    stage = partial(next, numbers)
    assert [bench_gate.stored(tmp_path, "a", stage) for _ in range(2)] == [0, 0]
    assert [bench_gate.stored(None, "a", stage) for _ in range(2)] == [1, 2]


def test_the_page(tmp_path: Path) -> None:
    """Holds the notes, every section with its machine, text and figures, and the pieces."""
    (tmp_path / "notes.md").write_text("As before.\n")
    (tmp_path / "pieces.csv").write_text("piece,share\nbatches,1.02\n")
    for name in ("b", "a"):
        section = Section(f"Title {name}", [f"Text {name}."], [{"x": 1.5}], {"share": 0.25})
        page.write(tmp_path, name, section, page.Machine("a machine", "a CPU", "avx2"))
    text = (tmp_path / "README.md").read_text()
    parts = ("As before.", "## Title a", "On a machine.", "[a.csv](a.csv)", "## Title b")
    assert sorted(parts, key=text.index) == list(parts)
    assert "| batches | 1.02 |" in text
    assert (tmp_path / "a.csv").read_text() == "x,cpu,instruction_sets\n1.5,a CPU,avx2\n"
    assert json.loads((tmp_path / "a.json").read_text())["share"] == 0.25


def test_every_benchmark_is_found() -> None:
    """By the name of its file."""
    assert {"clock", "kill", "memory", "overhead", "repeat", "startup"} <= set(__main__.names())


def test_operators_are_timed_by_what_they_do() -> None:
    """Each kind of operator in its own family, and an empty call in none."""
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
        assert {family} <= {one for one, ms in found.items() if ms > 0} <= {family, profiling.REST}
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
