"""Crossovers: the size from which on one mechanism is faster than another. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitbench.analysis.groups import SIZE, SUBJECT, groups, latency_s, subject_key, trusted
from vitbench.analysis.order import Spread
from vitbench.results.record import Record

# Subjects of a setting that are compared with each other: the fastest at either end.
_MOST = 40


@dataclass(frozen=True, slots=True)
class Crossover:
    """`winner` is slower than `loser` at small sizes and faster at large ones.

    winner, loser  their rows at the nearest measured sizes below and above
    at             the side of the image in pixels where their times are equal, by interpolation
    low, high      the nearest measured sides at which the one and the other is faster beyond noise:
                   the interval of the crossover, if there is one only
    """

    winner: tuple[Record, Record]
    loser: tuple[Record, Record]
    at: float
    low: float
    high: float


def side(record: Record) -> float:
    """Of the image: the side of a square of as many pixels."""
    return math.sqrt(float(record["image_height"] or 0) * float(record["image_width"] or 0))


def crossovers(records: Sequence[Record]) -> list[Crossover]:
    """All of them, the clearest interval first."""
    found = []
    for rows in groups(records, (*SUBJECT, *SIZE)):
        measured = trusted(rows)
        curves, spread = _curves(measured), Spread.of(measured)
        pairs = len(curves) * (len(curves) - 1) // 2
        for one, other in itertools.combinations(curves, 2):
            if (crossing := _crossing(one, other, spread, 2 * pairs)) is not None:
                found.append(crossing)
    return sorted(found, key=lambda crossing: crossing.high / crossing.low)


_Curve = Mapping[float, Record]


def _curves(rows: Sequence[Record]) -> list[_Curve]:
    """Of each subject its rows by size, the smallest first; of many subjects those that are the
    fastest at one end."""
    curves: dict[object, dict[float, Record]] = {}
    for record in rows:
        curves.setdefault(subject_key(record), {})[side(record)] = record
    several: list[_Curve] = [
        dict(sorted(curve.items())) for curve in curves.values() if len(curve) > 1
    ]
    if len(several) <= _MOST:
        return several
    half = _MOST // 2
    chosen: dict[int, _Curve] = {}
    for end in (0, -1):
        ranked = sorted(several, key=lambda curve: latency_s(list(curve.values())[end]))
        chosen |= {id(curve): curve for curve in ranked[:half]}
    return list(chosen.values())


def _crossing(one: _Curve, other: _Curve, spread: Spread, pairs: int) -> Crossover | None:
    """Where the order at small sizes is the opposite of that at large ones, and changes once."""
    shared = [size for size in one if size in other]
    if len(shared) < 2:
        return None

    def known(sizes: Sequence[float]) -> tuple[float, int]:
        """The first of the sizes at which the order is clear, and the order there."""
        signs = ((size, spread.sign(one[size], other[size], pairs)) for size in sizes)
        return next(((size, sign) for size, sign in signs if sign), (sizes[0], 0))

    (first, first_sign), (last, last_sign) = known(shared), known(shared[::-1])
    if first_sign * last_sign >= 0 or first > last:
        return None
    if first_sign < 0:
        one, other = other, one
    # From here on `other` is faster at first: one after another the sizes say -1, 0 or 1.
    signs = {size: spread.sign(other[size], one[size]) for size in shared}
    signs |= {first: -1, last: 1}
    below = max(size for size in shared if signs[size] < 0)
    above = min(size for size in shared if signs[size] > 0)
    if below > above:
        return None
    return Crossover(
        winner=(one[below], one[above]),
        loser=(other[below], other[above]),
        at=_equal(one, other, [size for size in shared if below <= size <= above]),
        low=below,
        high=above,
    )


def _equal(one: _Curve, other: _Curve, sizes: Sequence[float]) -> float:
    """Where the ratio of the two latencies is 1, on straight lines between logarithms."""
    ratios = [math.log(latency_s(one[size]) / latency_s(other[size])) for size in sizes]
    steps = zip(itertools.pairwise(sizes), itertools.pairwise(ratios), strict=True)
    for (small, large), (before, after) in steps:
        if before >= 0 >= after and before > after:
            share = before / (before - after)
            return math.exp(math.log(small) + share * math.log(large / small))
    return math.sqrt(sizes[0] * sizes[-1])  # the odd rounds at the ends hide where
