"""What another runtime, dtype or device changes, all else being equal. Pure."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
    found = []
    for axis, free in _FREE.items():
        pairs: dict[tuple[str, str], list[tuple[Record, Record]]] = {}
        rank = _by_frequency(records, axis)
        if len(rank) < 2:
            continue
        for rows in groups(records, free):
            by_value = {str(row[axis]): row for row in trusted(rows)}
            for base, other in itertools.combinations(sorted(by_value, key=rank.index), 2):
                pairs.setdefault((base, other), []).append((by_value[base], by_value[other]))
        own = [_change(axis, *values, shared) for values, shared in pairs.items()]
        found += sorted(own, key=lambda change: -change.speedup)
    return found


def _by_frequency(records: Sequence[Record], axis: Changed) -> list[str]:
    """The values, the most frequent first."""
    return [str(value) for value, _ in Counter(record[axis] for record in records).most_common()]


def _change(axis: Changed, base: str, other: str, pairs: Sequence[tuple[Record, Record]]) -> Change:
    speedups = [latency_s(a) / latency_s(b) for a, b in pairs]
    rounds = [(Rounds.of(a), Rounds.of(b)) for a, b in pairs]
    runtimes = (base, other) if axis == "runtime" else ("", "")
    spread = Spread.of_rounds(row for pair in rounds for row in zip(runtimes, pair, strict=True))
    signs = spread.signs(rounds, is_alike=axis != "runtime")
    low, high = _mean_interval([math.log(speedup) for speedup in speedups])
    ranked = sorted(range(len(pairs)), key=lambda index: speedups[index])
    worst, best = (pairs[index] for index in (ranked[0], ranked[-1]))
    return Change(
        axis,
        base,
        other,
        stats.geometric_mean(speedups),
        math.exp(low),
        math.exp(high),
        faster=signs.count(1),
        slower=signs.count(-1),
        tied=signs.count(0),
        best=best,
        worst=worst,
    )


def _mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Of the mean; without ends where there is one value."""
    if len(values) < 2:
        return -math.inf, math.inf
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    quantile = stats.student_quantile((1 - stats.CONFIDENCE) / 2, len(values) - 1)
    reach = quantile * math.sqrt(variance / len(values))
    return mean - reach, mean + reach
