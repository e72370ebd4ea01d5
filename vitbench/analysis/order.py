"""Which of two rows is faster, beyond what processes differ by. Pure.

The samples of one process resemble each other more than those of two, so a round counts as one
observation, by its median (Kalibera and Jones 2013). Two or three rounds of a row say little of how
far its processes differ; all rows of a run together say more. Each row's own spread is taken where
it is the larger.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vitbench.results.record import Record

# Of an order that is stated. Of the comparisons of identical runtimes, recorded and simulated, at
# most 2 of 100 then state one (tests/benchmarks/bench_same_runtimes.py).
CONFIDENCE = 0.99


@dataclass(frozen=True, slots=True)
class Spread:
    """What the processes of a run differ by.

    pooled     standard deviation of the logarithms of a row's round medians, over all rows
    rounds     beyond the first, of all rows together
    processes  beyond the first of each runtime: the rows of a process share its luck, which cancels
               between two of them, and does not between two runtimes
    """

    pooled: float
    rounds: int
    processes: int

    @classmethod
    def of(cls, records: Iterable[Record]) -> Spread:
        """Of the measured rows of a run, or of one setting of it."""
        most: dict[object, int] = {}
        squares, freedom = 0.0, 0
        for row in records:
            more = len(medians_of(row)) - 1
            most[row["runtime"]] = max(more, most.get(row["runtime"], 0))
            squares, freedom = squares + more * _deviation(row) ** 2, freedom + more
        pooled = math.sqrt(squares / freedom) if freedom else math.inf
        return cls(pooled, freedom, sum(most.values()))

    def gap(self, quick: Record, slow: Record) -> float:
        """By what factor the slower one takes longer, at least: the lower end of the interval of
        CONFIDENCE. 1 or less where the order is not known."""
        freedom = self.rounds if quick["runtime"] == slow["runtime"] else self.processes
        if not freedom:
            return 0.0
        logs = [np.log(medians_of(row)) for row in (quick, slow)]
        own = math.sqrt(sum(_deviation(row) ** 2 for row in (quick, slow)) / 2)
        error = max(self.pooled, own) * math.sqrt(sum(1 / len(values) for values in logs))
        reach = _quantile(freedom) * error
        return math.exp(float(np.mean(logs[1]) - np.mean(logs[0])) - reach)


@functools.cache
def _quantile(freedom: int) -> float:
    """Of Student's t."""
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def medians_of(row: Record) -> list[float]:
    """The median of each round of a measured row, in seconds."""
    return [float(text) for text in str(row["round_medians"] or row["latency_s"]).split()]


def _deviation(row: Record) -> float:
    """Of the logarithms of a row's round medians; 0 for one round."""
    values = np.log(medians_of(row))
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
