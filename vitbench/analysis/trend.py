"""Runs over time: each case's throughput, and where it changed. Pure, no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ruptures
import scipy.stats

from vitbench.analysis.compare import IDENTITY, SIGNIFICANCE, name_of
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record

# Runs of one commit differ by what the machine does; a step is looked for in those that share all
# of this. The version of torch may differ: it is one of the causes that are looked for.
_SHARED = (*IDENTITY, "device", "dtype", "device_name")
# A step of fewer runs than this on either side may be one odd run.
MIN_RUNS = 2
# Each step adds a level and a place, and is paid for by three logarithms (the modified BIC of
# Zhang and Siegmund 2007 has as many), in units of the noise's variance.
_PENALTY = 3.0
_QUIETEST = 0.003
# A run so many times the noise from both neighbours is odd.
_ODD = 4.0


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
    (PELT; Killick, Fearnhead and Eckley 2012), and of those found what a t-test calls, corrected
    for as many places as there are runs.

    A lone odd run is replaced by the median of itself and its neighbours before. The noise is taken
    from neighbours' differences, whose median a few steps do not move.
    """
    logs = np.log(np.asarray(values, dtype=float))
    if len(logs) < 2 * MIN_RUNS:
        return []
    noise = max(1.4826 * float(np.median(np.abs(np.diff(logs)))) / math.sqrt(2), _QUIETEST)
    smooth = _without_odd(logs, noise)
    search = ruptures.Pelt(model="l2", min_size=MIN_RUNS, jump=1).fit(smooth.reshape(-1, 1))
    ends = search.predict(pen=_PENALTY * math.log(len(logs)) * noise**2)
    parts = [smooth[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    freedom = len(logs) - len(parts)
    pooled = sum(float(part.var()) * len(part) for part in parts) / max(freedom, 1)
    scale = max(math.sqrt(pooled), _QUIETEST)
    found, end = [], 0
    for before, after in itertools.pairwise(parts):
        end += len(before)
        shift = float(np.median(after) - np.median(before))
        error = scale * math.sqrt(1 / len(before) + 1 / len(after))
        p = 2 * float(scipy.stats.t.sf(abs(shift) / error, max(freedom, 1))) * len(logs)
        if abs(shift) >= math.log1p(min_change) and p <= SIGNIFICANCE:
            found.append(Step(end - 1, end, math.exp(shift)))
    return found


def _without_odd(logs: np.ndarray, noise: float) -> np.ndarray:
    """Runs far from both neighbours, which lie close together, at the median of the three."""
    smooth = logs.copy()
    for k in range(1, len(logs) - 1):
        left, right = logs[k - 1], logs[k + 1]
        far = min(abs(logs[k] - left), abs(logs[k] - right))
        if far > _ODD * noise and abs(left - right) < far:
            smooth[k] = np.median(logs[k - 1 : k + 2])
    return smooth


def sentence(one: Series, step: Step, history: Sequence[Past]) -> str:
    """A step in words, with the commit."""
    old, new = history[one.runs[step.before]], history[one.runs[step.after]]
    change = f"{1 / step.ratio:.3f} times slower"
    if step.ratio >= 1:
        change = f"{step.ratio:.3f} times faster"
    told = f"{one.describe}: {change} at {new.label}, after {old.label}"
    versions = one.torch[step.before], one.torch[step.after]
    if versions[0] != versions[1]:
        told += f"; torch went from {versions[0]} to {versions[1]}"
    return told
