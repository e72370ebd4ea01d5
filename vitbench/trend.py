"""Runs over time: each case's throughput, and where it changed. Pure, no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ruptures

from vitbench import stats
from vitbench.compare import IDENTITY, name_of
from vitbench.record import MEASURED, Record

# Runs of one commit differ by what the machine does; a step is looked for in those that share all
# of this. The version of torch may differ: it is one of the causes that are looked for.
_SHARED = (*IDENTITY, "device", "dtype", "device_name")
# A step of fewer runs than this on either side may be one odd run.
MIN_RUNS = 2
# Each step adds a level and a place, and is paid for by three logarithms (the modified BIC of
# Zhang and Siegmund 2007 has as many), in units of the noise's variance.
_PENALTY = 3.0
_QUIETEST = 0.003


@dataclass(frozen=True, slots=True)
class Past:
    """One run of the history.

    name    its folder or file
    commit  of the code that was measured, full; None where it is not known
    dirty   the tree differed from the commit
    """

    name: str
    records: Sequence[Record]
    commit: str | None = None
    dirty: bool = False

    @property
    def label(self) -> str:
        """`1a2b3c4`, `1a2b3c4+` for a tree that differed, else the name."""
        return self.name if self.commit is None else self.commit[:7] + "+" * self.dirty


@dataclass(frozen=True, slots=True)
class Step:
    """A change of level.

    before, after  indices into the series: the last run of the old level, the first of the new
    ratio          throughput after over before
    """

    before: int
    after: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Series:
    """One case over the runs that measured it.

    runs    indices into the history
    values  throughput, images/s
    torch   versions
    """

    describe: str
    subject: str
    runs: tuple[int, ...]
    values: tuple[float, ...]
    torch: tuple[str, ...]
    steps: tuple[Step, ...]


def series(history: Sequence[Past], min_change: float = 0.02) -> list[Series]:
    """Every case that at least two runs measured, in order of first appearance.

    min_change  smaller steps are not told, as a share
    """
    found: dict[tuple[str, ...], list[tuple[int, Record]]] = {}
    for index, past in enumerate(history):
        for record in past.records:
            if record["status"] == MEASURED:
                key = tuple(str(record[name] or "") for name in _SHARED)
                found.setdefault(key, []).append((index, record))
    return [_series(rows, min_change) for rows in found.values() if len(rows) > 1]


def _series(rows: Sequence[tuple[int, Record]], min_change: float) -> Series:
    record = rows[0][1]
    values = tuple(float(str(one["throughput_img_s"])) for _, one in rows)
    return Series(
        name_of(record),
        str(record["attention"] or record["backbone"]),
        tuple(index for index, _ in rows),
        values,
        tuple(str(one["torch"]) for _, one in rows),
        tuple(steps(values, min_change)),
    )


def steps(values: Sequence[float], min_change: float = 0.02) -> list[Step]:
    """Where the level of a series changes: least squares on logarithms with a price for each step
    (PELT; Killick, Fearnhead and Eckley 2012).

    The noise is taken from neighbours' differences, whose median a few steps do not move.
    """
    logs = np.log(np.asarray(values, dtype=float))
    if len(logs) < 2 * MIN_RUNS:
        return []
    differences = np.abs(np.diff(logs))
    noise = max(1.4826 * float(np.median(differences)) / math.sqrt(2), _QUIETEST)
    search = ruptures.Pelt(model="l2", min_size=MIN_RUNS, jump=1).fit(logs.reshape(-1, 1))
    ends = search.predict(pen=_PENALTY * math.log(len(logs)) * noise**2)
    bounds = [0, *ends]
    levels = [stats.median(logs[a:b].tolist()) for a, b in zip(bounds, ends, strict=False)]
    found = []
    for place, (low, high) in enumerate(itertools.pairwise(levels)):
        if abs(high - low) >= math.log1p(min_change):
            end = bounds[place + 1]
            found.append(Step(end - 1, end, math.exp(high - low)))
    return found


def sentence(one: Series, step: Step, history: Sequence[Past]) -> str:
    """A step in words, with the commit."""
    old, new = history[one.runs[step.before]], history[one.runs[step.after]]
    change = f"{1 / step.ratio:.3f} times slower" if step.ratio < 1 else f"{step.ratio:.3f} faster"
    told = f"{one.describe}: {change} at {new.label}, after {old.label}"
    versions = one.torch[step.before], one.torch[step.after]
    if versions[0] != versions[1]:
        told += f"; torch went from {versions[0]} to {versions[1]}"
    return told
