"""Runs over time: each case's throughput, and where it changed. Pure, no torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import ruptures
import scipy.stats

from vitbench.analysis.compare import IDENTITY, SIGNIFICANCE
from vitbench.cases.row import name_of
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record, subject_of

# A series holds runs that share all of this. The version of torch may differ: it is one of the
# causes of a step.
_SHARED = (*IDENTITY, "device", "dtype", "device_name")
# A step of fewer runs than this on either side may be one odd run.
MIN_RUNS = 2
# Each step adds a level and an index, and costs three logarithms (as many as the modified BIC of
# Zhang and Siegmund 2007), in units of the noise's variance.
_PENALTY = 3.0
_QUIETEST = 0.003
# A run so many times the noise from both neighbours is odd.
_ODD = 4.0


@dataclass(frozen=True, slots=True)
class RunSnapshot:
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


def series(history: Sequence[RunSnapshot], min_change: float = 0.02) -> list[Series]:
    """Every case that at least two runs measured, in order of first appearance.

    min_change  smaller steps are not reported, as a share
    """
    runs_of: dict[tuple[str, ...], dict[int, Record]] = {}
    for index, snapshot in enumerate(history):
        for record in snapshot.records:
            if record["status"] == MEASURED:
                key = tuple(str(record[name] or "") for name in _SHARED)
                runs_of.setdefault(key, {})[index] = record
    return [_series(runs, min_change) for runs in runs_of.values() if len(runs) > 1]


def _series(runs: Mapping[int, Record], min_change: float) -> Series:
    records = list(runs.values())
    values = tuple(float(str(record["throughput_img_s"])) for record in records)
    return Series(
        describe=name_of(records[0]),
        subject=subject_of(records[0]),
        runs=tuple(runs),
        values=values,
        torch=tuple(str(record["torch"]) for record in records),
        steps=tuple(steps(values, min_change)),
    )


def steps(values: Sequence[float], min_change: float = 0.02) -> list[Step]:
    """Where the level of a series changes: least squares on logarithms with a price for each step
    (PELT; Killick, Fearnhead and Eckley 2012). A t-test must confirm a step, corrected for as many
    positions as there are runs.

    First the median of itself and its neighbours replaces a lone odd run. The noise is estimated
    from the differences of neighbours, whose median a few steps do not move.
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
    confirmed, end = [], 0
    for before, after in itertools.pairwise(parts):
        end += len(before)
        shift = float(np.median(after) - np.median(before))
        error = scale * math.sqrt(1 / len(before) + 1 / len(after))
        p = 2 * float(scipy.stats.t.sf(abs(shift) / error, max(freedom, 1))) * len(logs)
        if abs(shift) >= math.log1p(min_change) and p <= SIGNIFICANCE:
            confirmed.append(Step(end - 1, end, math.exp(shift)))
    return confirmed


def _without_odd(logs: np.ndarray, noise: float) -> np.ndarray:
    """Runs far from both neighbours, which lie close together, at the median of the three."""
    smooth = logs.copy()
    for k in range(1, len(logs) - 1):
        left, right = logs[k - 1], logs[k + 1]
        far = min(abs(logs[k] - left), abs(logs[k] - right))
        if far > _ODD * noise and abs(left - right) < far:
            smooth[k] = np.median(logs[k - 1 : k + 2])
    return smooth


def sentence(case: Series, step: Step, history: Sequence[RunSnapshot]) -> str:
    """A step in words, with the commit."""
    old, new = (history[case.runs[index]] for index in (step.before, step.after))
    change = f"{step.ratio:.3f} times faster"
    if step.ratio < 1:
        change = f"{1 / step.ratio:.3f} times slower"
    text = f"{case.describe}: {change} at {new.label}, after {old.label}"
    old_torch, new_torch = case.torch[step.before], case.torch[step.after]
    if old_torch != new_torch:
        text += f"; torch went from {old_torch} to {new_torch}"
    return text
