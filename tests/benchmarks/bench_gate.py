"""The gate judged: false alarms on identical code, and planted slowdowns found, beside other tools.

Four trees are measured in turns for a long while: the code as it is, twice, and with a part of
HiLo's work repeated so that it takes 5% and 10% longer. Comparisons are then made of that record by
the gate's own code, each on blocks of its own: a reading that it asks for is answered from the
record. So one hour of measuring gives many comparisons, in the order in which they were taken.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tests.benchmarks import ROOT, Section
from tests.vitbench.examples import facts
from vitbench import interleaved, runner, session, stats
from vitbench.case import Resolution
from vitbench.child import Child, Place
from vitbench.gate import Policy
from vitbench.interleaved import Comparison, Rules
from vitbench.plan import Plan
from vitbench.record import Measured, outcome_from_dict, outcome_to_dict
from vitbench.render import tables
from vitbench.side import Side

NAMES = ("msa", "hilo", "window", "sra", "shifted_window")
SLOWED = "hilo"
PLANTED = {"five": 1.05, "ten": 1.10}
LIMIT = 0.02
BATCH = 2
# A suite comparison may take so long before it is undecided.
MOST_S = 180.0
RULE = {"warmup_calls": 3, "warmup_s": 0.02, "warmup_agree": 1.0, "min_samples": 5}
READING = {"min_s": 0.06, "cap_s": 0.15}

# Part of the mechanism's own work again: its first projection on so many of the tokens.
_REPEAT = """

_forward_once = {module}.forward


def _forward(self, x):
    y = _forward_once(self, x)
    linear = next(one for one in self.modules() if isinstance(one, nn.Linear))
    linear(x.reshape(-1, x.shape[-1])[:{tokens}])
    return y


{module}.forward = _forward
"""

# How much longer a call takes with so many tokens more: both in one process, in turns.
_CALIBRATE = """
import statistics, sys, time, torch
from torch import nn
import attentions
from attentions import Grid
from vitbench.instruments import allocator, environment

environment.configure(int(sys.argv[1]))
allocator.settle("steady")
name, batch = sys.argv[2], int(sys.argv[3])
spec = attentions.load(name)
module = spec.build(384, 12, Grid(14, 14), impl="fused", **spec.settings_at(16)).eval()
x = torch.randn(batch, 14, 14, 384)
linear = next(one for one in module.modules() if isinstance(one, nn.Linear))

def seconds(tokens):
    start = time.perf_counter()
    for _ in range(4):
        module(x)
        if tokens:
            linear(x.reshape(-1, 384)[:tokens])
    return time.perf_counter() - start

with torch.inference_mode():
    for _ in range(50):
        seconds(16)
    for tokens in range(16, 14 * 14 * batch, 16):
        ratios = []
        for _ in range(40):
            first, second, third, last = seconds(0), seconds(tokens), seconds(tokens), seconds(0)
            ratios.append((second + third) / (first + last))
        print(tokens, statistics.median(ratios), flush=True)
        if ratios and statistics.median(ratios) > 1.14:
            break
"""


def planted(threads: int) -> dict[str, int]:
    """Tokens to repeat for each planted slowdown: a line through what is measured, from the
    origin, since the cost of a projection grows with its tokens."""
    done = subprocess.run(
        [sys.executable, "-c", _CALIBRATE, str(threads), SLOWED, str(BATCH)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    points = [
        (int(a), float(b) - 1)
        for a, b in (line.split() for line in done.stdout.split("\n") if line)
    ]
    tokens: dict[str, int] = {}
    for name, factor in PLANTED.items():
        nearest = min(points, key=lambda point: abs(point[1] - (factor - 1)))
        tokens[name] = nearest[0]
    return tokens


def tree(folder: Path, tokens: int = 0) -> Path:
    """A copy of attentions/, with part of the work repeated."""
    shutil.copytree(ROOT / "attentions", folder / "attentions")
    if tokens:
        path = folder / "attentions" / f"{SLOWED}.py"
        text = path.read_text(encoding="utf-8")
        found = re.search(r"module=(\w+)", text)
        assert found is not None
        module = found[1]
        path.write_text(text + _REPEAT.format(module=module, tokens=tokens), encoding="utf-8")
    return folder


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of the record; seconds since its start, and of one call."""

    block: int
    case: str
    side: str
    at_s: float
    latency_s: float


def plan() -> Plan:
    """Five mechanisms at LITv2-S's stage 3."""
    return session.make_plan(
        "quick",
        device="cpu",
        effort="quick",
        axes={"attention": NAMES, "resolution": (Resolution(224, 224),), "batch_size": (BATCH,)},
        rule={**RULE, **READING},
    )


def record(trees: Mapping[str, Path], chosen: Plan, seconds: float) -> Iterator[Reading]:
    """Blocks of fresh workers of every tree; a case's readings go there and back, so that each two
    trees stand in the order A B B A, and the order of the trees turns from block to block."""
    begun, block = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        names = list(trees)
        names = names[block % len(names) :] + names[: block % len(names)]
        workers = {name: Child(Place(root=trees[name])) for name in names}
        try:
            for child in workers.values():
                runner.settle(child, "cpu", chosen.threads)
            for case in chosen.order(block):
                for name in (*names, *reversed(names)):
                    request = {"do": "measure", "case": case.to_dict(), "with_facts": False}
                    answer = workers[name].ask(request | {"rule": asdict(chosen.rule)}, 300.0)
                    outcome = outcome_from_dict(answer)
                    assert isinstance(outcome, Measured), outcome
                    at = time.monotonic() - begun
                    yield Reading(block, case.id, name, at, stats.median(outcome.samples_s))
        finally:
            for child in workers.values():
                child.close()
        block += 1


class Replay:
    """Answers a comparison's requests from the record, block by block from a first one."""

    def __init__(
        self, readings: Sequence[Reading], first: int, environment: dict[str, Any]
    ) -> None:
        self._held: dict[tuple[int, str, str], list[float]] = {}
        for one in readings:
            self._held.setdefault((one.block, one.case, one.side), []).append(one.latency_s)
        self._blocks = 1 + max(one.block for one in readings)
        self._environment = environment
        self._started: dict[str, int] = {}
        self.first, self.used = first, 0

    def make(self, place: Place) -> Replayed:
        """In the place of Child(place): the next block of that side."""
        assert place.root is not None
        name = place.root.name
        number = self._started.get(name, 0)
        self._started[name] = number + 1
        self.used = max(self.used, number + 1)
        if self.first + number >= self._blocks:
            raise EndOfRecord
        return Replayed(self, name, self.first + number)

    def answer(
        self, name: str, block: int, place: int, request: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The environment, or the recorded reading."""
        if request["do"] == "environment":
            return {"device": "cpu", "environment": self._environment}
        latency = self._held[block, _id(request["case"]), name][place]
        return outcome_to_dict(
            Measured(
                samples_s=(latency,),
                wall_samples_s=(latency,),
                calls_per_sample=1,
                first_call_s=latency,
                compile_s=None,
                warmup_calls=0,
                warmup_s=0.0,
                stopped_by="cap",
                facts=facts() if request["with_facts"] else None,
            )
        )


class EndOfRecord(Exception):
    """The comparison wants more blocks than were taken."""


def _id(case: Mapping[str, Any]) -> str:
    from vitbench.case import Case

    return Case.from_dict(json.loads(json.dumps(case))).id


class Replayed:
    """A worker of the record."""

    def __init__(self, replay: Replay, name: str, block: int) -> None:
        self._replay, self._name, self._block = replay, name, block
        self._asked: dict[str, int] = {}

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        case = json.dumps(request.get("case"))
        place = self._asked.get(case, 0)
        self._asked[case] = place + 1
        return self._replay.answer(self._name, self._block, place, request)

    def close(self) -> None:
        """Nothing runs."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison: blocks it used, its verdict on each mechanism, and its exit status."""

    first: int
    blocks: int
    words: Mapping[str, str]
    status: int


def compare(
    readings: Sequence[Reading],
    sides: tuple[str, str],
    chosen: Plan,
    first: int,
    max_blocks: int,
) -> Compared | None:
    """By the gate's own code on the blocks from `first`; None where the record ends before it."""
    environment = {"device_name": "the record", "torch": {"version": "0", "threads": 0}}
    replay = Replay(readings, first, environment)
    pair = tuple(Side(name, Place(root=Path(name))) for name in sides)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(interleaved, "Child", replay.make),
    ):
        comparison = Comparison(
            chosen,
            (pair[0], pair[1]),
            Policy(max_slowdown=LIMIT),
            Rules(max_blocks=max_blocks),
            Path(folder),
        )
        try:
            result = comparison.measure()
        except EndOfRecord:
            return None
    words = {one.verdict.subject: one.verdict.word for one in result.judged}
    return Compared(first, replay.used, words, result.status)


def comparisons(
    readings: Sequence[Reading], sides: tuple[str, str], chosen: Plan, max_blocks: int, step: int
) -> list[Compared]:
    """Many: each on blocks of its own (step 0), or from every step-th block."""
    found, first = [], 0
    while (one := compare(readings, sides, chosen, first, max_blocks)) is not None:
        found.append(one)
        first += step or one.blocks
    return found


# The other tools, on the same cases

_PYTEST = """
import sys

import pytest
import torch

sys.path.insert(0, {root!r})
import attentions
from attentions import Grid

torch.set_num_threads({threads})


@pytest.mark.parametrize("name", {names!r})
def test_layer(benchmark, name):
    spec = attentions.load(name)
    module = spec.build(384, 12, Grid(14, 14), impl="fused", **spec.settings_at(16)).eval()
    x = torch.randn({batch}, 14, 14, 384)
    with torch.inference_mode():
        benchmark(module, x)
"""

_PYPERF = """
import sys

import pyperf
import torch

sys.path.insert(0, {root!r})
import attentions
from attentions import Grid

torch.set_num_threads({threads})
torch.set_grad_enabled(False)
runner = pyperf.Runner()
for name in {names!r}:
    spec = attentions.load(name)
    module = spec.build(384, 12, Grid(14, 14), impl="fused", **spec.settings_at(16)).eval()
    runner.bench_func(name, module, torch.randn({batch}, 14, 14, 384))
"""


def _script(folder: Path, text: str, name: str, root: Path, threads: int) -> Path:
    path = folder / name
    path.write_text(text.format(root=str(root), threads=threads, names=NAMES, batch=BATCH))
    return path


def pytest_benchmark(base: Path, head: Path, threads: int) -> bool:
    """Whether `--benchmark-compare-fail=median:5%` fails the head."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
        ]
        command += [f"--benchmark-storage={folder}/kept", f"--rootdir={folder}"]
        one = _script(folder, _PYTEST, "test_speed.py", base, threads)
        subprocess.run(
            [*command, str(one), "--benchmark-save=base"], capture_output=True, check=True
        )
        _script(folder, _PYTEST, "test_speed.py", head, threads)
        words = ["--benchmark-compare", "--benchmark-compare-fail=median:5%"]
        done = subprocess.run(
            [*command, str(one), *words], capture_output=True, text=True, check=False
        )
    return "Performance has regressed" in done.stdout + done.stderr


def pyperf_compare(base: Path, head: Path, threads: int) -> bool:
    """Whether `pyperf compare_to` calls a benchmark significantly slower by 5% or more."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = []
        for side, root in (("base", base), ("head", head)):
            path = _script(folder, _PYPERF, f"{side}.py", root, threads)
            kept.append(folder / f"{side}.json")
            words = ["--processes=3", "--values=3", "--quiet", "-o", str(kept[-1])]
            subprocess.run([sys.executable, str(path), *words], capture_output=True, check=True)
        command = [sys.executable, "-m", "pyperf", "compare_to", *map(str, kept), "--min-speed=5"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return "slower" in done.stdout


@dataclass(frozen=True, slots=True)
class Tool:
    """Another tool: how many comparisons, false alarms on identical code, and 5% found."""

    name: str
    run: Any
    comparisons: int


def _share(found: Sequence[Compared], word: str, subject: str | None = None) -> int:
    """Comparisons in which the word was said of the mechanism, or of any."""
    return sum(word in ((one.words[subject],) if subject else one.words.values()) for one in found)


def run(*, quick: bool) -> Section:
    """A minute, or the minutes that VITBENCH_GATE_MINUTES says, 60 by default."""
    minutes = 1.0 if quick else float(os.environ.get("VITBENCH_GATE_MINUTES", "60"))
    chosen = plan()
    threads = int(runner.probe("cpu")["environment"]["torch"]["threads"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repeated = planted(threads)
        trees = {
            "base": tree(folder / "base"),
            "same": tree(folder / "same"),
            **{side: tree(folder / side, tokens) for side, tokens in repeated.items()},
        }
        readings = list(record(trees, chosen, minutes * 60))
        tools = [] if quick else [Tool("pytest-benchmark, median:5%", pytest_benchmark, 12)]
        tools += [] if quick else [Tool("pyperf compare_to, 3 processes, 5%", pyperf_compare, 2)]
        others = {tool.name: _judge_tool(tool, trees, threads) for tool in tools}
    return section(readings, chosen, repeated, others)


def _judge_tool(tool: Tool, trees: Mapping[str, Path], threads: int) -> tuple[int, int, int]:
    alarms = sum(tool.run(trees["base"], trees["same"], threads) for _ in range(tool.comparisons))
    found = sum(tool.run(trees["base"], trees["five"], threads) for _ in range(tool.comparisons))
    return tool.comparisons, alarms, found


def section(
    readings: Sequence[Reading],
    chosen: Plan,
    repeated: Mapping[str, int],
    others: Mapping[str, tuple[int, int, int]],
) -> Section:
    """The rates, the curve against time, and the other tools."""
    blocks = 1 + max(one.block for one in readings)
    sides = len({one.side for one in readings})
    # Of the record's time two sides' share, as an A/B comparison has it.
    block_s = max(one.at_s for one in readings) / blocks * 2 / sides
    most = max(8, int(MOST_S / block_s))
    rows: list[dict[str, Any]] = []
    lines = []
    figures: dict[str, float] = {"block_s": block_s, "blocks": blocks}
    kinds = (
        ("identical code", ("base", "same"), None),
        ("5% planted", ("base", "five"), SLOWED),
        ("10% planted", ("base", "ten"), SLOWED),
    )
    for told, pair, subject in kinds:
        for step, how in ((0, "apart"), (1, "from every block")):
            found = comparisons(readings, pair, chosen, most, step)
            if not found:
                continue
            called = _share(found, "slower", subject)
            false = sum(
                any(word == "slower" for name, word in one.words.items() if name != subject)
                for one in found
            )
            median_s = stats.median([one.blocks * block_s for one in found])
            lines.append((told, how, str(len(found)), str(called), str(false), f"{median_s:.0f} s"))
            rows += [
                {"kind": told, "windows": how, "first": one.first, "blocks": one.blocks}
                | {f"verdict_{name}": word for name, word in one.words.items()}
                | {"status": one.status}
                for one in found
            ]
            key = f"{pair[1]}_{'apart' if step == 0 else 'sliding'}"
            figures |= {
                f"{key}_comparisons": len(found),
                f"{key}_called": called,
                f"{key}_false": false,
            }
    ratios = {
        side: stats.ratio_of_blocks(_shifts(readings, chosen, side)).value
        for side in ("same", *PLANTED)
    }
    curve = [
        (
            f"{b * block_s:.0f} s",
            *(_found(readings, chosen, side, b) for side in ("same", *PLANTED)),
        )
        for b in (6, 8, 12, 16, 24, 32)
        if 2 * b < blocks
    ]
    text = [
        f"{blocks} blocks of four trees: the code as it is, twice, and {SLOWED} with its first "
        f"projection repeated on {repeated['five']} and {repeated['ten']} of {BATCH * 196} tokens. "
        "Over the whole record its latency is "
        + ", ".join(f"{ratios[side]:.3f} ({side})" for side in ratios)
        + f" times the base's. Limit {LIMIT:.0%}; a comparison ends when all five mechanisms are "
        f"settled or after {MOST_S:.0f} s ({most} blocks), and what is flagged is run again.",
        "",
        tables.markdown(
            (
                "head",
                "comparisons",
                "number",
                f"called slower ({SLOWED}; any on identical code)",
                "another mechanism called",
                "median time",
            ),
            lines,
        ),
        "",
        "`apart`: each on blocks of its own. `from every block`: one begins at each block, so that "
        "they share blocks.",
        "",
        "Found without a re-run, by the blocks that are looked at (share of windows):",
        "",
        tables.markdown(("time", "identical", "5%", "10%"), curve),
    ]
    if others:
        text += ["", "Other tools on the same layers and trees, run after the record:", ""]
        text.append(
            tables.markdown(
                ("tool", "comparisons each", "alarms on identical code", "5% found"),
                [(name, str(n), str(a), str(f)) for name, (n, a, f) in others.items()],
            )
        )
        figures |= {
            f"other_{i}_{k}": float(v)
            for i, told in enumerate(others.values())
            for k, v in zip(("n", "alarms", "found"), told, strict=True)
        }
    return Section("The gate", "\n".join(text), rows, figures)


def _shifts(readings: Sequence[Reading], chosen: Plan, side: str) -> list[float]:
    """log(side / base) of the slowed mechanism, block by block."""
    wanted = next(case.id for case in chosen.cases if case.attention == SLOWED)
    logs: dict[tuple[int, str], list[float]] = {}
    for one in readings:
        if one.case == wanted and one.side in ("base", side):
            logs.setdefault((one.block, one.side), []).append(math.log(one.latency_s))
    return [
        sum(logs[block, side]) / 2 - sum(logs[block, "base"]) / 2
        for block in sorted({block for block, _ in logs})
        if len(logs.get((block, side), ())) == len(logs.get((block, "base"), ())) == 2
    ]


def _found(readings: Sequence[Reading], chosen: Plan, side: str, blocks: int) -> str:
    """The share of windows of so many blocks whose interval lies beyond the limit."""
    shifts = _shifts(readings, chosen, side)
    windows = [shifts[k : k + blocks] for k in range(len(shifts) - blocks + 1)]
    hits = 0
    for window in windows:
        ratio = stats.ratio_of_blocks(window)
        hits += ratio.low > 1 + max(LIMIT, 1.5 * ratio.floor)
    return f"{hits / len(windows):.0%}"


def write(readings: Sequence[Reading], path: Path) -> None:
    """The record as a CSV file."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("block", "case", "side", "at_s", "latency_s"))
        writer.writerows(
            (one.block, one.case, one.side, f"{one.at_s:.2f}", f"{one.latency_s:.6g}")
            for one in readings
        )
