"""Which of many settings are worth measuring further: successive halving that knows noise. Pure.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) gives up the worse half after
each round. Here a round is a process that measures every setting that is left, one after another,
so what a round has in common cancels between them. A setting is given up at once where it is slower
beyond noise than one that costs no more; of the others the worse half goes, but none that is within
2% of the best.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vitbench.analysis.stats import student_quantile

# Settings closer than this to the best are never given up: less is of no use to who chooses.
LEAST = 0.02
# Of "slower beyond noise", over all settings of a round.
_CONFIDENCE = 0.99
# What the median of a round scatters by before anything is known of it, and as how many
# observations that counts.
_PRIOR, _PRIOR_COUNT = 0.05, 4
_DIGITS = 9

# Seconds of one call by setting: the median of a round. One mapping for each round.
Rounds = Sequence[Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Estimates:
    """Logarithms of latencies, apart from what a round has in common.

    values   by setting
    counts   the rounds that measured it
    scatter  standard deviation of the median of one round
    freedom  observations that this is known from, those of the prior among them
    """

    values: Mapping[str, float]
    counts: Mapping[str, int]
    scatter: float
    freedom: int

    @classmethod
    def of(cls, rounds: Rounds) -> Estimates:
        """By least squares, one effect for each setting and one for each round: settings that were
        measured in other rounds compare through those of both."""
        names = list(dict.fromkeys(name for each in rounds for name in each))
        index = {name: place for place, name in enumerate(names)}
        cells = [
            (index[name], number, math.log(seconds))
            for number, each in enumerate(rounds)
            for name, seconds in each.items()
        ]
        design = np.zeros((len(cells), len(names) + len(rounds)))
        for row, (place, number, _) in enumerate(cells):
            design[row, place] = design[row, len(names) + number] = 1.0
        logs = np.array([value for *_, value in cells])
        solution, _, rank, _ = np.linalg.lstsq(design, logs, rcond=None)
        rounded = (round(float(value), _DIGITS) for value in solution)  # equals stay equal
        squares = float(np.square(logs - design @ solution).sum())
        freedom = len(cells) - int(rank) + _PRIOR_COUNT
        counts = {name: sum(name in each for each in rounds) for name in names}
        scatter = math.sqrt((squares + _PRIOR_COUNT * _PRIOR**2) / freedom)
        return cls(dict(zip(names, rounded, strict=False)), counts, scatter, freedom)

    def gap(self, fast: str, slow: str) -> tuple[float, float]:
        """By how much longer the slower one takes, as a logarithm, and its standard error."""
        error = self.scatter * math.sqrt(1 / self.counts[fast] + 1 / self.counts[slow])
        return self.values[slow] - self.values[fast], error


def survivors(
    names: Collection[str],
    rounds: Rounds,
    costs: Mapping[str, tuple[float, ...]],
    kept: Collection[str] = (),
) -> set[str]:
    """The settings of `names` that are worth another round, and those of `kept`.

    rounds  of which each setting of `names` has one at least
    costs   what a setting takes besides time, such as peak memory: one that costs more in any of
            them beats nothing that costs less
    """
    estimates = Estimates.of(rounds)
    behind = {name: _behind(name, names, estimates, costs) for name in names}
    reach = student_quantile((1 - _CONFIDENCE) / len(names), estimates.freedom)
    near = {name for name, (gap, _) in behind.items() if gap <= LEAST}
    open_ = [name for name, (gap, error) in behind.items() if gap <= max(LEAST, reach * error)]
    open_.sort(key=lambda name: (behind[name][0], name))
    half = -(-len(names) // 2)
    return near | {*open_[:half]} | ({*kept} & {*names})


def _behind(
    name: str,
    names: Collection[str],
    estimates: Estimates,
    costs: Mapping[str, tuple[float, ...]],
) -> tuple[float, float]:
    """How far a setting is behind the fastest of those that cost no more, and the standard error;
    0 for the fastest itself."""
    rivals = (
        other
        for other in names
        if all(own <= its for own, its in zip(costs[other], costs[name], strict=True))
    )
    best = min(rivals, key=lambda other: (estimates.values[other], other))
    return (0.0, 0.0) if best == name else estimates.gap(best, name)
