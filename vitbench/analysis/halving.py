"""Which of many settings are worth measuring further: successive halving that knows noise. Pure.

Successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943) gives up the worse half after
each round. Here a round is a process that measures every setting that is left, one after another,
so what a round has in common cancels between them. Disturbances only ever add time, so a setting is
judged by its lowest reading, and not before it has two. It is given up at once where it is slower
beyond noise than one that costs no more; of the others the worse half goes, but none that is within
2% of the best.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from vitbench.analysis.stats import median, student_quantile

# Settings closer than this to the best are never given up: less is of no use to who chooses.
LEAST = 0.02
# Readings before a setting is given up.
_LEAST_READINGS = 2
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

    values   by setting: the median of its readings
    lowest   by setting: its lowest reading
    counts   the rounds that measured it
    scatter  standard deviation of a reading
    freedom  observations that this is known from, those of the prior among them
    """

    values: Mapping[str, float]
    lowest: Mapping[str, float]
    counts: Mapping[str, int]
    scatter: float
    freedom: int

    @classmethod
    def of(cls, rounds: Rounds) -> Estimates:
        """What a round has in common is the median of what its settings take longer than before:
        one that is disturbed does not move it. Settings that were measured in other rounds compare
        through those of both."""
        readings: dict[str, list[float]] = {}
        offsets = 0
        for each in filter(None, rounds):
            logs = {name: math.log(seconds) for name, seconds in each.items()}
            known = [log - median(readings[name]) for name, log in logs.items() if name in readings]
            offset = median(known) if known else 0.0
            offsets += bool(known)
            for name, log in logs.items():
                # Rounded, so that no dust of floats tells equals apart.
                readings.setdefault(name, []).append(round(log - offset, _DIGITS))
        values = {name: median(own) for name, own in readings.items()}
        squares = math.fsum(
            (reading - values[name]) ** 2 for name, own in readings.items() for reading in own
        )
        more = sum(len(own) - 1 for own in readings.values()) - offsets
        freedom = max(0, more) + _PRIOR_COUNT
        return cls(
            values,
            {name: min(own) for name, own in readings.items()},
            {name: len(own) for name, own in readings.items()},
            math.sqrt((squares + _PRIOR_COUNT * _PRIOR**2) / freedom),
            freedom,
        )

    def error(self, one: str, other: str) -> float:
        """The standard error of what two settings differ by."""
        return self.scatter * math.sqrt(1 / self.counts[one] + 1 / self.counts[other])


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
    lowest = estimates.lowest
    fastest_first = sorted(names, key=lambda name: (lowest[name], name))
    judged = [name for name in names if estimates.counts[name] >= _LEAST_READINGS]
    behind = {name: _behind(name, fastest_first, estimates, costs) for name in judged}
    reach = student_quantile((1 - _CONFIDENCE) / len(names), estimates.freedom)
    near = {name for name, (gap, _) in behind.items() if gap <= LEAST}
    open_ = [name for name, (gap, error) in behind.items() if gap <= max(LEAST, reach * error)]
    open_.sort(key=lambda name: (behind[name][0], name))
    half = -(-len(judged) // 2)
    return near | {*open_[:half]} | ({*names} - {*judged}) | ({*kept} & {*names})


def _behind(
    name: str,
    fastest_first: Sequence[str],
    estimates: Estimates,
    costs: Mapping[str, tuple[float, ...]],
) -> tuple[float, float]:
    """How far a setting is behind the fastest of those that cost no more, by the lowest readings,
    and the standard error; 0 for the fastest itself."""
    best = next(
        other
        for other in fastest_first
        if all(own <= its for own, its in zip(costs[other], costs[name], strict=True))
    )
    gap = estimates.lowest[name] - estimates.lowest[best]
    return gap, estimates.error(best, name)
