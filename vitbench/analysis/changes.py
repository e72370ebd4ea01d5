"""What another runtime, dtype or device changes, all else being equal. Pure."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vitbench.analysis import stats
from vitbench.analysis.groups import groups, latency_s, trusted
from vitbench.analysis.order import Rounds, Spread
from vitbench.results.record import Record

Changed = Literal["runtime", "dtype", "device_name"]
_FREE: Mapping[Changed, tuple[str, ...]] = {
    "runtime": ("runtime",),
    "dtype": ("dtype",),
    "device_name": ("device", "device_name"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """Two values of an axis, over all cases that were measured with both.

    axis          the runtime, the dtype, or the device by its name
    base, other   its values; the base is the one measured more often
    speedup       how many times as fast the other is: the geometric mean
    low, high     the 95% interval of the mean over the cases, by Student's t
    faster, slower, tied  in how many cases beyond noise, and in how many not
    best, worst   the rows (base, other) of the cases with the largest and the smallest speedup
    """

    axis: Changed
    base: str
    other: str
    speedup: float
    low: float
    high: float
    faster: int
    slower: int
    tied: int
    best: tuple[Record, Record]
    worst: tuple[Record, Record]

    @property
    def cases(self) -> int:
        return self.faster + self.slower + self.tied


def changes(records: Sequence[Record]) -> list[Change]:
    """One for each pair of values that share cases, by axis, the largest speedup first."""
    rows = [row for row in records if trusted([row])]
    # Each row is in several pairs; what is needed of it is read once.
    rounds, latencies = Rounds.of(rows), np.array([latency_s(row) for row in rows])
    found = []
    for axis in _FREE:
        for (base, other), (before, after) in _pairs(rows, axis).items():
            sides = rounds[before], rounds[after]
            signs = Spread.of(*sides).signs(*sides, len(before)).tolist()
            speedups = latencies[before] / latencies[after]
            best, worst = (
                (rows[before[index]], rows[after[index]])
                for index in (speedups.argmax(), speedups.argmin())
            )
            change = Change(
                axis,
                base,
                other,
                *_mean(speedups),
                faster=signs.count(1),
                slower=signs.count(-1),
                tied=signs.count(0),
                best=best,
                worst=worst,
            )
            found.append(change)
    order = [*_FREE]
    return sorted(found, key=lambda change: (order.index(change.axis), -change.speedup))


def _pairs(rows: Sequence[Record], axis: Changed) -> dict[tuple[str, str], np.ndarray]:
    """Of each two values, the more frequent one first, the rows of the cases that have both, by
    their index: two lines of an array."""
    rank = [str(value) for value, _ in Counter(row[axis] for row in rows).most_common()]
    if len(rank) < 2:
        return {}
    place = {id(row): index for index, row in enumerate(rows)}
    pairs: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for own in map(trusted, groups(rows, _FREE[axis])):
        by_value = {str(row[axis]): place[id(row)] for row in own}
        for base, other in itertools.combinations(sorted(by_value, key=rank.index), 2):
            pairs.setdefault((base, other), []).append((by_value[base], by_value[other]))
    return {values: np.transpose(places) for values, places in pairs.items()}


def _mean(speedups: np.ndarray) -> tuple[float, float, float]:
    """The geometric mean and the ends of its interval; without ends where there is one value."""
    logs, count = np.log(speedups), len(speedups)
    mean, reach = float(logs.mean()), math.inf
    if count > 1:
        quantile = stats.student_quantile((1 - stats.CONFIDENCE) / 2, count - 1)
        reach = quantile * float(logs.std(ddof=1)) / math.sqrt(count)
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)
