"""The gate judged: false alarms on identical code, and planted slowdowns found, beside other tools.

Four trees are measured in turns for a long while: the code as it is, twice, and with a part of
HiLo's work repeated so that it takes 5% and 10% longer. Comparisons are then made of that record by
the gate's own code, whose questions to workers are answered from the record: so half an hour of
measuring gives many comparisons. Beside it the real command is run on the same trees, and the other
tools.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.benchmarks import ROOT, Section
from tests.vitbench.examples import facts
from vitbench.analysis import stats
from vitbench.analysis.compare import FLOORS
from vitbench.analysis.gate import Policy
from vitbench.cases.case import Case, Resolution
from vitbench.cases.plan import Plan
from vitbench.engine import ab as interleaved
from vitbench.engine import runner, session
from vitbench.engine.ab import Comparison, Rules
from vitbench.engine.child import Child, Place
from vitbench.engine.revision import Side
from vitbench.render import tables
from vitbench.results.outcome import Measured, outcome_to_dict

NAMES = ("msa", "hilo", "window", "sra", "shifted_window")
SLOWED = "hilo"
PLANTED = {"five": 1.05, "ten": 1.10}
LIMIT = 0.02
BATCH = 2
# A suite comparison may take so long before it is undecided.
MOST_S = 300.0
# As `vitbench ab` has it.
RULE = {"warmup_calls": 3, "warmup_agree": 1.0, "warmup_s": 0.1, "sample_s": 0.002}
RULES = Rules()
# Comparisons of blocks that are drawn from the record at random.
DRAWN = 100
CALIBRATION_S = 200.0
# Runs of the real command on each head.
REAL = 2

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

# How much longer a call takes with so many tokens more: both in one process, in short turns.
_CALIBRATE = """
import sys, time, torch
import numpy as np
from torch import nn
import attentions
from attentions import Grid
from vitbench.devices import allocator, environment

environment.configure(int(sys.argv[1]))
allocator.settle("steady")
name, batch = sys.argv[2], int(sys.argv[3])
spec = attentions.load(name)
module = spec.build(384, 12, Grid(14, 14), impl="fused", **spec.settings_at(16)).eval()
x = torch.randn(batch, 14, 14, 384)
linear = next(one for one in module.modules() if isinstance(one, nn.Linear))

def turn(tokens):
    samples, end = [], time.perf_counter() + 0.02
    while time.perf_counter() < end:
        start = time.perf_counter()
        module(x)
        if tokens:
            linear(x.reshape(-1, 384)[:tokens])
        samples.append(time.perf_counter() - start)
    return np.quantile(samples[1:] or samples, 0.25)

def cost(tokens, fours):
    ratios = []
    for _ in range(fours):
        first, second, third, last = turn(0), turn(tokens), turn(tokens), turn(0)
        ratios.append((second + third) / (first + last))
    return np.median(ratios) - 1

with torch.inference_mode():
    turn(batch * 196)
    per_token = cost(batch * 196, 100) / (batch * 196)
    for wanted in map(float, sys.argv[4:]):
        tokens = round((wanted - 1) / per_token)
        for _ in range(3):
            tokens += round((wanted - 1 - cost(tokens, 100)) / per_token / 2)
        print(tokens)
"""


def planted(threads: int, chosen: Plan) -> dict[str, int]:
    """Tokens to repeat for each planted slowdown, by what they are measured to cost: first in one
    process, then as the record itself has it."""
    wanted = [str(factor) for factor in PLANTED.values()]
    done = subprocess.run(
        [sys.executable, "-c", _CALIBRATE, str(threads), SLOWED, str(BATCH), *wanted],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    tokens = dict(zip(PLANTED, map(int, done.stdout.split()), strict=True))
    only = slowed(chosen)
    with tempfile.TemporaryDirectory() as name:
        trees = {"base": tree(Path(name) / "base")}
        trees |= {side: tree(Path(name) / side, count) for side, count in tokens.items()}
        taken = list(record(trees, only, CALIBRATION_S))
    found = {side: stats.ratio_of_blocks(shifts(taken, only, side)).value for side in PLANTED}
    five, ten = PLANTED
    slope = (found[ten] - found[five]) / (tokens[ten] - tokens[five])
    return {
        side: max(1, round(count + (PLANTED[side] - found[side]) / slope))
        for side, count in tokens.items()
    }


def slowed(chosen: Plan) -> Plan:
    """The cases of the mechanism that is made slower."""
    cases = tuple(case for case in chosen.cases if case.attention == SLOWED)
    return dataclasses.replace(chosen, cases=cases)


def others(chosen: Plan) -> Plan:
    """Those that are the same code in every tree."""
    cases = tuple(case for case in chosen.cases if case.attention != SLOWED)
    return dataclasses.replace(chosen, cases=cases)


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
class Taken:
    """One turn of the record. Seconds since its start, and of one call."""

    block: int
    case: str
    side: str
    at_s: float
    samples_s: tuple[float, ...]


def plan() -> Plan:
    """Five mechanisms at LITv2-S's stage 3."""
    return session.make_plan(
        "quick",
        device="cpu",
        effort="quick",
        axes={"attention": NAMES, "resolution": (Resolution(224, 224),), "batch_size": (BATCH,)},
        rule=RULE,
    )


def order_of_trees(trees: Sequence[str], block: int) -> list[str]:
    """There and back, and back and there: any two trees stand A B B A or B A A B, as in `ab`."""
    there = [*trees[block % len(trees) :], *trees[: block % len(trees)]]
    ways = (there, there[::-1])
    places = range(2 * RULES.fours)
    return [name for place in places for name in ways[place.bit_count() % 2]]


def record(trees: Mapping[str, Path], chosen: Plan, seconds: float) -> Iterator[Taken]:
    """Blocks of fresh workers of every tree."""
    begun, block = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        workers = {name: Child(Place(root=path)) for name, path in trees.items()}
        try:
            for child in workers.values():
                runner.settle(child, "cpu", chosen.threads)
            for case in chosen.order(block):
                hold = {"do": "hold", "case": case.to_dict(), "with_facts": False}
                for child in workers.values():
                    child.ask(hold | {"rule": asdict(chosen.rule)}, 300.0)
                for name in order_of_trees(list(trees), block):
                    reply = workers[name].ask({"do": "turn", "seconds": RULES.turn_s}, 300.0)
                    at = time.monotonic() - begun
                    yield Taken(block, case.id, name, at, tuple(reply["samples_s"]))
                for child in workers.values():
                    child.ask({"do": "release"}, 300.0)
        finally:
            for child in workers.values():
                child.close()
        block += 1


def joined(*records: Sequence[Taken]) -> list[Taken]:
    """Records of different cases as one, of as many blocks as the shortest has whole."""
    whole = min(max(one.block for one in taken) for taken in records)
    return [one for taken in records for one in taken if one.block < whole]


class Replay:
    """Answers a comparison's questions from the record, from the blocks in this order."""

    def __init__(
        self, taken: Mapping[tuple[int, str, str], Sequence[Taken]], blocks: Sequence[int]
    ) -> None:
        self._taken, self._blocks = taken, blocks
        self._started: dict[str, int] = {}
        self.used = 0

    def make(self, place: Place) -> Replayed:
        """In the place of Child(place): the next block of that side."""
        assert place.root is not None
        side = place.root.name
        number = self._started.get(side, 0)
        self._started[side] = number + 1
        self.used = max(self.used, number + 1)
        if number >= len(self._blocks):
            raise EndOfRecord
        return Replayed(self, side, self._blocks[number])

    def turns(self, block: int, case: str, side: str) -> Sequence[Taken]:
        """The turns of a case; what is not slowed was measured in two trees."""
        own = self._taken.get((block, case, side))
        return own or self._taken[block, case, "same"]


class EndOfRecord(Exception):
    """The comparison wants more blocks than were taken."""


class Replayed:
    """A worker of the record."""

    def __init__(self, replay: Replay, side: str, block: int) -> None:
        self._replay, self._side, self._block = replay, side, block
        self._left: list[Taken] = []
        self._given: list[float] = []
        self._with_facts = False

    def ask(self, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """As a worker answers."""
        if request["do"] == "environment":
            machine = {"device_name": "the record", "torch": {"version": "0", "threads": 0}}
            return {"device": "cpu", "environment": machine}
        if request["do"] == "hold":
            case = Case.from_dict(json.loads(json.dumps(request["case"])))
            self._left = list(self._replay.turns(self._block, case.id, self._side))
            self._given, self._with_facts = [], request["with_facts"]
            return {"held": True}
        if request["do"] == "turn":
            samples = self._left.pop(0).samples_s
            self._given += samples
            return {"samples_s": list(samples)}
        return outcome_to_dict(
            Measured(
                samples_s=tuple(self._given),
                wall_samples_s=tuple(self._given),
                calls_per_sample=1,
                first_call_s=self._given[0],
                compile_s=None,
                warmup_calls=0,
                warmup_s=0.0,
                stopped_by="cap",
                facts=facts() if self._with_facts else None,
            )
        )

    def close(self) -> None:
        """Nothing runs."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison: blocks it used, its verdict on each mechanism, and its exit status."""

    first: int
    blocks: int
    words: Mapping[str, str]
    status: int

    @property
    def alarms(self) -> set[str]:
        """Mechanisms that were called slower."""
        return {name for name, word in self.words.items() if word == "slower"}


def by_turn(taken: Sequence[Taken]) -> dict[tuple[int, str, str], list[Taken]]:
    """The turns of each case of each side in each block, in order."""
    held: dict[tuple[int, str, str], list[Taken]] = {}
    for one in taken:
        held.setdefault((one.block, one.case, one.side), []).append(one)
    return held


def compare(
    held: Mapping[tuple[int, str, str], Sequence[Taken]],
    sides: tuple[str, str],
    chosen: Plan,
    blocks: Sequence[int],
    max_blocks: int,
) -> Compared | None:
    """By the gate's own code on blocks in this order; None where it wants more of them."""
    replay = Replay(held, blocks)
    base, head = (Side(name, Place(root=Path(name))) for name in sides)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(interleaved, "Child", replay.make),
    ):
        comparison = Comparison(
            chosen,
            (base, head),
            Policy(max_slowdown=LIMIT),
            dataclasses.replace(RULES, max_blocks=max_blocks),
            Path(folder),
        )
        try:
            result = comparison.measure()
        except EndOfRecord:
            return None
    words = {one.verdict.subject: one.verdict.word for one in result.judged}
    return Compared(blocks[0], replay.used, words, result.status)


def comparisons(
    taken: Sequence[Taken], sides: tuple[str, str], chosen: Plan, max_blocks: int, how: str
) -> list[Compared]:
    """Many: "apart", each on blocks of its own; "overlapping", one from every block on; "drawn", on
    blocks drawn at random."""
    held = by_turn(taken)
    count = 1 + max(one.block for one in taken)
    rng = np.random.default_rng(0)
    found: list[Compared] = []
    first = 0
    while len(found) < DRAWN or how != "drawn":
        order = rng.permutation(count).tolist() if how == "drawn" else list(range(first, count))
        one = compare(held, sides, chosen, order, max_blocks) if order else None
        if one is None:
            break
        found.append(one)
        first += one.blocks if how == "apart" else 1
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


def pytest_benchmark(base: Path, heads: Sequence[Path], threads: int) -> list[bool]:
    """Whether `--benchmark-compare-fail=median:5%` fails each head."""
    failed = []
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
        for head in heads:
            _script(folder, _PYTEST, "test_speed.py", head, threads)
            words = ["--benchmark-compare", "--benchmark-compare-fail=median:5%"]
            done = subprocess.run(
                [*command, str(one), *words], capture_output=True, text=True, check=False
            )
            failed.append("Performance has regressed" in done.stdout + done.stderr)
    return failed


def pyperf_compare(base: Path, heads: Sequence[Path], threads: int) -> list[bool]:
    """Whether `pyperf compare_to` calls a benchmark of each head slower by 5% or more."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = []
        for number, root in enumerate((base, *heads)):
            path = _script(folder, _PYPERF, f"side{number}.py", root, threads)
            kept.append(folder / f"side{number}.json")
            words = ["--processes=3", "--values=3", "--quiet", "-o", str(kept[-1])]
            subprocess.run([sys.executable, str(path), *words], capture_output=True, check=True)
        compare = [sys.executable, "-m", "pyperf", "compare_to", "--min-speed=5", str(kept[0])]
        told = [
            subprocess.run([*compare, str(one)], capture_output=True, text=True, check=True).stdout
            for one in kept[1:]
        ]
    return ["slower" in text for text in told]


@dataclass(frozen=True, slots=True)
class Tool:
    """Another tool, and how many comparisons of each kind it makes."""

    name: str
    fails: Callable[[Path, Sequence[Path], int], list[bool]]
    comparisons: int


TOOLS = (
    Tool("pytest-benchmark, median:5%", pytest_benchmark, 8),
    Tool("pyperf compare_to --min-speed 5, 3 processes", pyperf_compare, 2),
)


@dataclass(frozen=True, slots=True)
class Real:
    """One run of the command: its exit status, its time, and what it printed last."""

    head: str
    status: int
    seconds: float
    blocks: int
    output: str


def real(trees: Mapping[str, Path], head: str, folder: Path) -> Real:
    """`vitbench ab` on two of the trees, as one would type it."""
    command = [sys.executable, "-m", "vitbench", "ab", str(trees["base"]), str(trees[head])]
    command += ["--attention", ",".join(NAMES), "--resolution", "224"]
    command += ["--batch-size", str(BATCH), "--max-slowdown", f"{LIMIT:.0%}", "--out", str(folder)]
    begun = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | WIDE
    )
    seconds = time.monotonic() - begun
    blocks = json.loads((folder / "result.json").read_text(encoding="utf-8"))["blocks"]
    return Real(head, done.returncode, seconds, blocks, (done.stdout + done.stderr).strip())


def _told(trees: Mapping[str, Path], head: str, folder: Path) -> dict[str, Any]:
    return asdict(real(trees, head, folder))


# Lines of a table are not folded.
WIDE = {"COLUMNS": "160"}


def kept(name: str, make: Callable[[], Any]) -> Any:
    """What a stage found, as JSON has it; kept in the folder VITBENCH_GATE_KEEP, if set, so that a
    run that was cut off goes on there."""
    folder = os.environ.get("VITBENCH_GATE_KEEP")
    if folder is None:
        return make()
    path = Path(folder) / f"{name}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(make()), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def _kept_record(name: str, trees: Mapping[str, Path], chosen: Plan, seconds: float) -> list[Taken]:
    told = kept(name, lambda: [asdict(one) for one in record(trees, chosen, seconds)])
    return [Taken(**one | {"samples_s": tuple(one["samples_s"])}) for one in told]


def run(*, quick: bool) -> Section:
    """A record of VITBENCH_GATE_MINUTES, 30 by default, then the command and the other tools."""
    minutes = 1.0 if quick else float(os.environ.get("VITBENCH_GATE_MINUTES", "30"))
    chosen = plan()
    threads = int(runner.probe("cpu")["environment"]["torch"]["threads"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repeated = kept("planted", lambda: planted(threads, chosen))
        trees = {
            "base": tree(folder / "base"),
            "same": tree(folder / "same"),
            **{side: tree(folder / side, tokens) for side, tokens in repeated.items()},
        }
        seconds = minutes * 60
        both = {name: trees[name] for name in ("base", "same")}
        taken = joined(
            _kept_record("record", both, others(chosen), 0.6 * seconds),
            _kept_record("record-slowed", trees, slowed(chosen), 0.4 * seconds),
        )
        heads = [(k, head) for k in range(REAL) for head in ("same", "five", "ten")]
        runs = [
            Real(**kept(f"{head}-{k}", partial(_told, trees, head, folder / f"{head}-{k}")))
            for k, head in heads
            if not quick and (k == 0 or head != "ten")
        ]
        beside = {
            tool.name: kept(tool.name.split()[0].strip(","), partial(_judge, tool, trees, threads))
            for tool in TOOLS
            if not quick
        }
    return section(taken, chosen, repeated, runs, beside, str(folder))


def _judge(tool: Tool, trees: Mapping[str, Path], threads: int) -> tuple[int, int, int]:
    """Comparisons of each kind, alarms on identical code, and slowdowns of 5% found."""
    heads = trees["same"], trees["five"]
    told = [tool.fails(trees["base"], heads, threads) for _ in range(tool.comparisons)]
    alarms, found = (sum(side) for side in zip(*told, strict=True))
    return tool.comparisons, alarms, found


def section(
    taken: Sequence[Taken],
    chosen: Plan,
    repeated: Mapping[str, int],
    runs: Sequence[Real],
    beside: Mapping[str, tuple[int, int, int]],
    folder: str,
) -> Section:
    """The rates, the curve against time, the command itself, and the other tools."""
    figures: dict[str, float] = {"blocks": 1 + max(one.block for one in taken)}
    sides = ("same", *PLANTED)
    ratios = {side: stats.ratio_of_blocks(shifts(taken, chosen, side)) for side in sides}
    taken = calibrated(taken, {side: ratio.value for side, ratio in ratios.items()})
    measured = {side: shifts(taken, chosen, side) for side in sides}
    figures |= {f"ratio_{side}": ratio.value for side, ratio in ratios.items()}
    block_s = block_seconds(taken, runs)
    figures["block_s"] = block_s
    most = max(8, int(MOST_S / block_s))
    told = ", ".join(f"{one.value:.3f} ({side})" for side, one in ratios.items())
    text = [
        f"{figures['blocks']} blocks of the code as it is, twice, and of {SLOWED} with "
        f"its first projection repeated on {repeated['five']} and {repeated['ten']} of "
        f"{BATCH * 196} tokens. Over the whole record its latency is {told} times the base's; the "
        "samples of the slower trees are scaled so that it is 1.05 and 1.10 to the digit. The "
        f"limit is {LIMIT:.0%}; a comparison of five mechanisms ends when all are settled, or "
        f"after {most} blocks ({MOST_S:.0f} s, at {block_s:.1f} s a block of two sides); what is "
        "flagged is run again.",
        "",
    ]
    rows: list[dict[str, Any]] = []
    table = []
    for kind, head, subject in (
        ("identical code", "same", None),
        ("5% planted", "five", SLOWED),
        ("10% planted", "ten", SLOWED),
    ):
        for how in ("apart", "drawn"):
            found = comparisons(taken, ("base", head), chosen, most, how)
            if not found:
                continue
            called = sum(subject in one.alarms if subject else bool(one.alarms) for one in found)
            false = sum(bool(one.alarms - {subject}) for one in found)
            undecided = sum("undecided" in one.words.values() for one in found)
            seconds = stats.median([one.blocks * block_s for one in found])
            counts = [len(found), called, false, undecided]
            table.append((kind, how, *map(str, counts), f"{seconds:.0f} s"))
            figures |= {
                f"{head}_{how}_{name}": float(count)
                for name, count in zip(("n", "called", "false", "undecided"), counts, strict=True)
            }
            figures[f"{head}_{how}_s"] = seconds
            rows += [
                {"kind": kind, "windows": how, "first": one.first, "blocks": one.blocks}
                | {f"verdict_{name}": word for name, word in one.words.items()}
                | {"status": one.status}
                for one in found
            ]
    columns = ("head", "blocks", "comparisons", "called", "falsely", "undecided", "median time")
    text.append(tables.markdown(columns, table))
    text += [
        "",
        f"`called`: {SLOWED} slower (any mechanism, on identical code). `falsely`: another one, "
        "or any on identical code. `undecided`: of at least one mechanism. `apart`: each "
        "comparison on blocks of its own; `drawn`: on blocks drawn at random.",
        "",
        "Share of windows of so many blocks in a row after which each would be called, without a "
        "re-run:",
        "",
    ]
    curve = [
        (f"{k * block_s:.0f} s", *(_called(measured[side], k) for side in measured))
        for k in (6, 7, 8, 10, 12, 16, 20, 30)
        if 2 * k < figures["blocks"]
    ]
    text.append(tables.markdown(("time", "identical", "5%", "10%"), curve))
    if runs:
        text += [
            "",
            "The command itself, on trees as they were planted (the ratio is its own finding):",
            "",
        ]
        text.append(
            tables.markdown(
                ("head", "exit status", "blocks", "time"),
                [
                    (one.head, str(one.status), str(one.blocks), f"{one.seconds:.0f} s")
                    for one in runs
                ],
            )
        )
        shown = next((one for one in runs if one.head == "five"), runs[0])
        text += ["", "```", shown.output.replace(folder, "trees"), "```"]
        for head in ("same", "five", "ten"):
            of = [one for one in runs if one.head == head]
            figures |= {f"command_{head}_n": float(len(of))}
            figures |= {f"command_{head}_3": float(sum(one.status == 3 for one in of))}
            figures |= {f"command_{head}_s": stats.median([one.seconds for one in of])}
    if beside:
        words = "Other tools on the same layers and trees as the command, base against five:"
        text += ["", words, ""]
        text.append(
            tables.markdown(
                ("tool", "comparisons of each kind", "alarms on identical code", "slowdown found"),
                [(name, str(n), str(a), str(f)) for name, (n, a, f) in beside.items()],
            )
        )
        figures |= {
            f"{name.split()[0].strip(',')}_{key}": float(value)
            for name, found in beside.items()
            for key, value in zip(("n", "alarms", "found"), found, strict=True)
        }
    return Section("The gate", "\n".join(text), rows, figures)


def calibrated(taken: Sequence[Taken], ratios: Mapping[str, float]) -> list[Taken]:
    """The record with the samples of each slower tree scaled, so that over all of it the slowdown
    is exactly what was meant: how long some repeated work takes turns on the hour."""
    factors = {side: PLANTED[side] / ratios[side] for side in PLANTED}
    return [
        dataclasses.replace(one, samples_s=tuple(factors[one.side] * s for s in one.samples_s))
        if one.side in factors
        else one
        for one in taken
    ]


def block_seconds(taken: Sequence[Taken], runs: Sequence[Real] = ()) -> float:
    """Of a block of two sides: as the command took, of identical code; without it, from one block
    of the record to the next.
    """
    spent = [one.seconds / one.blocks for one in runs if one.head == "same"]
    if spent:
        return stats.median(spent)
    starts: dict[int, float] = {}
    for one in taken:
        starts.setdefault(one.block, one.at_s)
    return float(np.median(np.diff(list(starts.values()))))


def shifts(taken: Sequence[Taken], chosen: Plan, side: str) -> list[float]:
    """log(side / base) of the slowed mechanism, block by block."""
    wanted = next(case.id for case in chosen.cases if case.attention == SLOWED)
    of_block: dict[int, list[interleaved.Turn]] = {}
    for one in taken:
        if one.case == wanted and one.side in ("base", side):
            which: interleaved.Which = "base" if one.side == "base" else "head"
            of_block.setdefault(one.block, []).append((which, one.samples_s))
    whole = 4 * RULES.fours
    return [interleaved.shift_of(turns) for turns in of_block.values() if len(turns) == whole]


def _called(values: Sequence[float], blocks: int) -> str:
    """The share of windows of so many blocks whose interval lies beyond the limit."""
    windows = [values[k : k + blocks] for k in range(len(values) - blocks + 1)]
    hits = 0
    for window in windows:
        ratio = stats.ratio_of_blocks(window)
        hits += ratio.low > 1 + max(LIMIT, FLOORS * ratio.floor)
    return f"{hits / len(windows):.0%}"
