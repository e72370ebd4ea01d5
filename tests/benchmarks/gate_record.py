"""A long record of identical code, from which many comparisons are made by the gate's own code.

`vitbench ab` measures two copies of the code for a while, with a limit of 0% so that no case is
settled and each block times every case. Comparisons are then replayed on blocks drawn from that
record: the stand-in for a worker gives back recorded samples. A slowdown is planted by multiplying
the samples of one mechanism on one side.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from tests.vitbench.engine.workers import Worker, Workers
from tests.vitbench.examples import ROOT, facts, measured, plan, vitbench
from vitbench.analysis.gate import Policy
from vitbench.cases.sweep import Sweep
from vitbench.engine import ab, messages, pool
from vitbench.engine.child import Target
from vitbench.engine.revision import Revision
from vitbench.results.outcome import Facts

NAMES = ("msa", "hilo", "window", "sra", "shifted_window")
SLOWED = "hilo"
LIMIT = 0.02
BATCH = 2
AXES = ["--attention", ",".join(NAMES), "--resolution", "224", "--batch-size", str(BATCH)]

# The turns of each mechanism, in the order in which they were taken.
Block = Mapping[str, Sequence[ab.Slice]]

# Appended to the mechanism's file.
_SLOWDOWN = """

import time

_forward = ATTENTION.module.forward


def _slower_forward(self, *args, **kwargs):
    start = time.perf_counter()
    result = _forward(self, *args, **kwargs)
    end = start + {factor} * (time.perf_counter() - start)
    while time.perf_counter() < end:
        pass
    return result


ATTENTION.module.forward = _slower_forward
"""


def tree(folder: Path, factor: float = 1.0) -> Path:
    """A copy of attentions/, with one mechanism so many times slower."""
    shutil.copytree(ROOT / "attentions", folder / "attentions")
    if factor > 1:
        with (folder / "attentions" / f"{SLOWED}.py").open("a", encoding="utf-8") as file:
            file.write(_SLOWDOWN.format(factor=factor))
    return folder


@dataclass(frozen=True, slots=True)
class Command:
    """A run of `vitbench ab`: its exit status, time, number of blocks, and what it printed."""

    head: str
    status: int
    seconds: float
    blocks: int
    output: str


def command(base: Path, head: Path, folder: Path, *options: str) -> Command:
    """`vitbench ab` on two trees, as a user would type it."""
    start = time.monotonic()
    words = ("ab", str(base), str(head), *AXES, *options, "--out", str(folder))
    done = vitbench(ROOT, *words, COLUMNS="160")  # its tables are not folded
    seconds = time.monotonic() - start
    output = (done.stdout + done.stderr).strip()
    if not (folder / "result.json").exists():
        raise RuntimeError(output)
    blocks = json.loads((folder / "result.json").read_text(encoding="utf-8"))["blocks"]
    return Command(head.name, done.returncode, seconds, blocks, output)


def read_blocks(readings: Path) -> list[Block]:
    """The blocks of a readings.csv that have every mechanism."""
    blocks: dict[str, dict[str, list[ab.Slice]]] = {}
    with readings.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            side: ab.Which = "base" if row["side"] == "base" else "head"
            samples = [float(text) for text in row["samples_s"].split()]
            block = blocks.setdefault(row["block"], {})
            block.setdefault(row["case"].split()[0], []).append((side, samples))
    return [block for block in blocks.values() if set(block) == set(NAMES)]


def slowed(block: Block, factor: float) -> Block:
    """The block with the head so many times slower in one mechanism."""
    turns = [
        (side, [factor * s for s in samples] if side == "head" else samples)
        for side, samples in block[SLOWED]
    ]
    return {**block, SLOWED: turns}


class EndOfRecord(Exception):
    """The comparison wants more blocks than there are."""


class Replay(Workers):
    """Workers that answer turn by turn what was recorded; each has its side's next block."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        super().__init__()
        self._blocks = blocks
        self._worked: dict[int, Block] = {}
        self._left: dict[int, list[Sequence[float]]] = {}
        self._taken: dict[int, list[float]] = {}
        self._facts: dict[int, Facts | None] = {}

    @property
    def used(self) -> int:
        """Blocks so far."""
        return max(self.started.count("base"), self.started.count("head"))

    def make(self, target: Target) -> Worker:
        worker = super().make(target)
        if self.used > len(self._blocks):
            raise EndOfRecord
        self._worked[worker.number] = self._blocks[self.started.count(worker.side) - 1]
        return worker

    def answer(self, worker: Worker, request: messages.Request) -> messages.Reply:
        number = worker.number
        if isinstance(request, messages.PrepareCase):
            turns = self._worked[number][request.case.subject]
            self._left[number] = [samples for side, samples in turns if side == worker.side]
            self._taken[number], self._facts[number] = [], facts() if request.with_facts else None
            return messages.Accepted()
        if isinstance(request, messages.Sample):
            samples = self._left[number].pop(0)
            self._taken[number] += samples
            return messages.Sampled(samples_s=tuple(samples))
        return messages.Finished(outcome=measured(*self._taken[number], facts=self._facts[number]))


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison: the blocks it took, the verdict on each mechanism, and its exit status."""

    blocks: int
    words: Mapping[str, str]
    status: int

    @property
    def called(self) -> set[str]:
        """Mechanisms that were called slower."""
        return {name for name, word in self.words.items() if word == "slower"}


def compare(blocks: Sequence[Block], max_blocks: int, folder: Path) -> Compared | None:
    """A comparison by the gate's own code on blocks in this order; None where it wants more."""
    replay = Replay(blocks)
    base, head = (Revision(name, Target(root=Path(name))) for name in ("base", "head"))
    cases = Sweep(attention=NAMES, batch_size=(BATCH,)).expand()
    rules = ab.Rules(max_blocks=max_blocks)
    policy = Policy(max_slowdown=LIMIT)
    with mock.patch.object(pool, "Child", replay.make):
        try:
            result = ab.AbComparison(plan(*cases), (base, head), policy, rules, folder).measure()
        except EndOfRecord:
            return None
    words = {one.subject: one.word for one in result.verdicts}
    return Compared(replay.used, words, result.status)


def comparisons(
    blocks: Sequence[Block], factor: float, max_blocks: int, count: int
) -> list[Compared]:
    """So many of them, each on blocks drawn at random, the head slower by a factor."""
    rng = np.random.default_rng(0)
    head_slowed = [slowed(block, factor) for block in blocks]
    found = []
    for _ in range(count):
        drawn = [head_slowed[k] for k in rng.permutation(len(blocks))]
        with tempfile.TemporaryDirectory() as folder:
            found.append(compare(drawn, max_blocks, Path(folder)))
    return [one for one in found if one is not None]
