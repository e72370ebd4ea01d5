"""Which of two rows is faster, beyond what processes differ by. Pure.

The samples of one process resemble each other more than those of two, so a round counts as one
observation, by its median (Kalibera and Jones 2013). Two or three rounds of a row say little of how
far its processes differ; all rows of a run together say more. Each row's own spread is taken where
it is the larger.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitbench.analysis.stats import student_quantile
from vitbench.results.record import Record, Value

# Of an order that is stated. Of the comparisons of identical runtimes, recorded and simulated, at
# most 2 of 100 then state one (tests/benchmarks/bench_same_runtimes.py).
CONFIDENCE = 0.99
# Candidates closer than this are measured in turns before one is called faster, except where their
# rounds tell them apart.
NEAR = 1.2
_LOG_NEAR = math.log(NEAR)
# Of processes that are far slower than their neighbours.
_ODD_SHARE = 0.05
_NONE = (math.nan,) * 5


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds of measured rows, by the logarithms of their medians: arrays of one shape, an
    element for each row.

    runtime   of the row
    count     rounds
    mean      of all rounds
    variance  0 for one round
    least     the fastest round
    most      the slowest round, without the slowest third

    All but the first are NaN where there is no row.
    """

    runtime: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    least: np.ndarray
    most: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Record | None]) -> Rounds:
        """Of rows, or None in the place of one: one-dimensional."""
        told = [
            _NONE if row is None else _rounds(row["round_medians"] or row["latency_s"])
            for row in rows
        ]
        runtimes = np.array([None if row is None else row["runtime"] for row in rows], object)
        return cls(runtimes, *np.array(told, float).reshape(-1, len(_NONE)).T)

    def __getitem__(self, index: Any) -> Rounds:
        """Of some of the rows, or in another shape: the arrays so indexed."""
        fields = (self.count, self.mean, self.variance, self.least, self.most)
        return Rounds(self.runtime[index], *(field[index] for field in fields))


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
    def of(cls, *rows: Rounds) -> Spread:
        """Of the measured rows of a run, or of one setting of it."""
        squares, freedom = 0.0, 0
        most: dict[object, int] = {}
        for own in rows:
            more = own.count - 1
            squares, freedom = squares + float(more @ own.variance), freedom + int(more.sum())
            for runtime in set(own.runtime.tolist()):
                longest = int(more[own.runtime == runtime].max())
                most[runtime] = max(most.get(runtime, 0), longest)
        pooled = math.sqrt(squares / freedom) if freedom else math.inf
        return cls(pooled, freedom, sum(most.values()))

    def gaps(self, fast: Rounds, late: Rounds, pairs: int = 1) -> np.ndarray:
        """By what factor each slower row takes longer than the faster one, at least: the lower end
        of the interval of CONFIDENCE, or what is beyond 20% between all rounds of the two. 1 or
        less where the order is not known, never more where there is no row. The two broadcast.

        pairs  that are looked at together, of which none may be called where all are equal
        """
        is_alike = fast.runtime == late.runtime
        deviation = np.maximum(self.pooled, np.sqrt((fast.variance + late.variance) / 2))
        error = deviation * np.sqrt(1 / fast.count + 1 / late.count)
        ends = [
            late.mean - fast.mean - _reach(freedom, pairs) * error if freedom else -math.inf
            for freedom in (self.rounds, self.processes)
        ]
        at_least = np.where(is_alike, *ends)
        gaps: np.ndarray = np.exp(np.maximum(at_least, _apart(fast, late, pairs)))
        return gaps

    def gap(self, quick: Record, slow: Record, pairs: int = 1) -> float:
        """Of two rows."""
        return float(self.gaps(Rounds.of([quick]), Rounds.of([slow]), pairs)[0])

    def signs(self, one: Rounds, other: Rounds, pairs: int = 1) -> np.ndarray:
        """-1 where `one` is faster, 1 where `other` is, 0 where the order is not known or there is
        no row. The two broadcast."""
        ahead, behind = self.gaps(one, other, pairs), self.gaps(other, one, pairs)
        is_known = np.fmax(ahead, behind) > 1
        return np.where(is_known, np.where(ahead > behind, -1, 1), 0)

    def level(self, rows: Sequence[Record]) -> list[Record]:
        """The fastest of the rows, and those that are not known to be slower; the fastest first."""
        rounds = Rounds.of(rows)
        ranked = np.argsort(rounds.mean, kind="stable")
        gaps = self.gaps(rounds[ranked[:1]], rounds[ranked], max(1, len(rows) - 1))
        return [rows[i] for i in ranked[~(gaps > 1)].tolist()]


def _reach(freedom: int, pairs: int) -> float:
    """Of the interval of one of so many pairs, in standard errors (Bonferroni)."""
    return student_quantile((1 - CONFIDENCE) / (2 * pairs), freedom)


def _apart(fast: Rounds, late: Rounds, pairs: int) -> np.ndarray:
    """By how much more than NEAR all rounds of the two lie apart, as a logarithm; -inf where
    they do not, or where the rounds are so few that all of the slower row's may be odd.

    One process in twenty is far slower than its neighbours, which widens the pooled spread of a
    whole run. But an odd process is never faster: of the faster row the slowest third of the rounds
    does not count.
    """
    beyond = late.least - fast.most - _LOG_NEAR
    may_be_odd = 2 * _ODD_SHARE**late.count * pairs > 1 - CONFIDENCE
    return np.where((beyond > 0) & ~may_be_odd, beyond, -math.inf)


def medians_of(row: Record) -> list[float]:
    """The median of each round of a measured row, in seconds."""
    return [float(text) for text in str(row["round_medians"] or row["latency_s"]).split()]


@functools.cache
def _rounds(medians: Value) -> tuple[float, ...]:
    """Count, mean, variance, least and most. Each row is compared with many others."""
    logs = sorted(math.log(float(word)) for word in str(medians).split())
    count, mean = len(logs), math.fsum(logs) / len(logs)
    square = math.fsum((value - mean) ** 2 for value in logs)
    variance = square / (count - 1) if count > 1 else 0.0
    return count, mean, variance, logs[0], logs[-1 - count // 3]
