"""Which of two rows is faster, beyond what processes differ by. Pure.

The samples of one process resemble each other more than those of two, so a round counts as one
observation, by its median (Kalibera and Jones 2013). Two or three rounds of a row say little of how
far its processes differ; all rows of a run together say more. Each row's own spread is taken where
it is the larger.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
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
        return cls.of_rounds((row["runtime"], Rounds.of(row)) for row in records)

    @classmethod
    def of_rounds(cls, rows: Iterable[tuple[Value, Rounds]]) -> Spread:
        """Of rows by their runtime and their rounds."""
        most: dict[object, int] = {}
        squares, freedom = 0.0, 0
        for runtime, rounds in rows:
            more = rounds.count - 1
            if more > most.setdefault(runtime, 0):
                most[runtime] = more
            squares, freedom = squares + more * rounds.variance, freedom + more
        pooled = math.sqrt(squares / freedom) if freedom else math.inf
        return cls(pooled, freedom, sum(most.values()))

    def gap(self, quick: Record, slow: Record, pairs: int = 1) -> float:
        """By what factor the slower one takes longer, at least: the lower end of the interval of
        CONFIDENCE, or what is beyond 20% between all rounds of the two. 1 or less where the order
        is not known.

        pairs  that are looked at together, of which none may be called where all are equal
        """
        is_alike = quick["runtime"] == slow["runtime"]
        return math.exp(self._gap(Rounds.of(quick), Rounds.of(slow), is_alike, pairs))

    def _gap(self, fast: Rounds, late: Rounds, is_alike: bool, pairs: int) -> float:
        """The logarithm; `is_alike`: both rows are of one runtime."""
        freedom = self.rounds if is_alike else self.processes
        if not freedom:
            return -math.inf
        own = math.sqrt((fast.variance + late.variance) / 2)
        error = max(self.pooled, own) * math.sqrt(1 / fast.count + 1 / late.count)
        reach = student_quantile((1 - CONFIDENCE) / (2 * pairs), freedom)  # by Bonferroni
        at_least = late.mean - fast.mean - reach * error
        return max(at_least, _apart(fast, late, pairs))

    def sign(self, one: Record, other: Record, pairs: int = 1) -> int:
        """-1 where `one` is faster, 1 where `other` is, 0 where the order is not known."""
        first, second = Rounds.of(one), Rounds.of(other)
        sign = -1 if first.mean <= second.mean else 1
        fast, late = (first, second) if sign < 0 else (second, first)
        is_alike = one["runtime"] == other["runtime"]
        return sign if self._gap(fast, late, is_alike, pairs) > 0 else 0

    def signs(self, pairs: Sequence[tuple[Rounds, Rounds]], *, is_alike: bool) -> list[int]:
        """`sign` of each of these pairs, which are looked at together; of many in little time."""
        freedom = self.rounds if is_alike else self.processes
        if not freedom:
            return [0] * len(pairs)
        one, other = (
            np.array([(r.count, r.mean, r.variance, r.least, r.most) for r in side]).T
            for side in zip(*pairs, strict=True)
        )
        is_first = one[1] <= other[1]
        fast, late = np.where(is_first, one, other), np.where(is_first, other, one)
        deviation = np.sqrt(np.maximum(self.pooled**2, (fast[2] + late[2]) / 2))
        error = deviation * np.sqrt(1 / fast[0] + 1 / late[0])
        reach = student_quantile((1 - CONFIDENCE) / (2 * len(pairs)), freedom)
        is_apart = (late[3] - fast[4] > _LOG_NEAR) & ~_may_be_odd(late[0], len(pairs))
        is_known = (late[1] - fast[1] > reach * error) | is_apart
        signs: list[int] = np.where(is_known, np.where(is_first, -1, 1), 0).tolist()
        return signs

    def level(self, rows: Sequence[Record]) -> list[Record]:
        """The fastest of the rows, and those that are not known to be slower; the fastest first."""
        best, *others = sorted(rows, key=lambda row: Rounds.of(row).mean)
        return [best, *(row for row in others if self.gap(best, row, len(others)) <= 1)]


def may_be_faster(rows: Sequence[Record | None]) -> np.ndarray:
    """For each row (the first index) and each other one whether `Spread.gap` can be above 1: it
    never is where neither the mean nor the slowest round that counts says so. Not where a row is
    None."""
    none = (math.nan,) * 3
    rounds = [None if row is None else Rounds.of(row) for row in rows]
    means, leasts, mosts = np.array(
        [none if own is None else (own.mean, own.least, own.most) for own in rounds]
    ).T
    return np.less.outer(means, means) | np.less.outer(mosts, leasts)


def _apart(fast: Rounds, late: Rounds, pairs: int) -> float:
    """By how much more than NEAR all rounds of the two lie apart, as a logarithm; -inf where
    they do not, or where the rounds are so few that all of the slower row's may be odd.

    One process in twenty is far slower than its neighbours, which widens the pooled spread of a
    whole run. But an odd process is never faster: of the faster row the slowest third of the rounds
    does not count.
    """
    beyond = late.least - fast.most - _LOG_NEAR
    return -math.inf if beyond <= 0 or _may_be_odd(late.count, pairs) else beyond


def _may_be_odd(count: Any, pairs: int) -> Any:
    """Whether so many rounds may all be odd in one of so many pairs; of many counts at once too."""
    return 2 * _ODD_SHARE**count * pairs > 1 - CONFIDENCE


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds of a measured row, by the logarithms of their medians.

    variance  0 for one round
    least     the fastest round
    most      the slowest round, without the slowest third
    """

    count: int
    mean: float
    variance: float
    least: float
    most: float

    @classmethod
    def of(cls, row: Record) -> Rounds:
        return _rounds(row["round_medians"] or row["latency_s"])


def medians_of(row: Record) -> list[float]:
    """The median of each round of a measured row, in seconds."""
    return [float(text) for text in str(row["round_medians"] or row["latency_s"]).split()]


@functools.cache
def _rounds(medians: Value) -> Rounds:
    """Each row is compared with many others."""
    logs = sorted(math.log(float(word)) for word in str(medians).split())
    count, mean = len(logs), math.fsum(logs) / len(logs)
    square = math.fsum((value - mean) ** 2 for value in logs)
    variance = square / (count - 1) if count > 1 else 0.0
    return Rounds(count, mean, variance, logs[0], logs[-1 - count // 3])
