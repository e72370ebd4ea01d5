"""Crossovers: the size from which on one mechanism is faster than another. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vitbench.analysis.groups import SIZE, SUBJECT, Setting, latency_s, settings, subject_key
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
    found = [
        crossing
        for setting in settings(records, (*SUBJECT, *SIZE))
        for crossing in _crossings(setting)
    ]
    return sorted(found, key=lambda crossing: crossing.high / crossing.low)


# Rows, by their index, of one subject by size.
_Curve = Mapping[float, int]


def _curves(rows: Sequence[Record]) -> list[_Curve]:
    """Of each subject its rows, the smallest first; of many subjects those that are the fastest at
    one end."""
    curves: dict[object, dict[float, int]] = {}
    for index, record in enumerate(rows):
        curves.setdefault(subject_key(record), {})[side(record)] = index
    several: list[_Curve] = [
        dict(sorted(curve.items())) for curve in curves.values() if len(curve) > 1
    ]
    if len(several) <= _MOST:
        return several
    half = _MOST // 2
    chosen: dict[int, _Curve] = {}
    for end in (0, -1):
        ranked = sorted(several, key=lambda curve: latency_s(rows[list(curve.values())[end]]))
        chosen |= {id(curve): curve for curve in ranked[:half]}
    return list(chosen.values())


def _crossings(setting: Setting) -> Iterator[Crossover]:
    """Of the pairs of one setting, where the order at small sizes is the opposite of that at large
    ones, and changes once."""
    curves, spread = _curves(setting.rows), setting.spread
    if len(curves) < 2:
        return
    sizes = sorted({size for curve in curves for size in curve})
    where = np.array([[curve.get(size, -1) for size in sizes] for curve in curves])
    is_there, rounds = where >= 0, setting.rounds[where]
    is_shared = is_there[:, None] & is_there[None]
    pairs = len(curves) * (len(curves) - 1) // 2
    clear, likely = (
        spread.signs(rounds[:, None], rounds[None], count) * is_shared for count in (2 * pairs, 1)
    )
    first, last = (clear != 0).argmax(axis=2), -1 - (clear[..., ::-1] != 0).argmax(axis=2)
    i, j = np.indices(first.shape)
    for winner, loser in np.argwhere((clear[i, j, first] > 0) & (clear[i, j, last] < 0)).tolist():
        signs = likely[winner, loser]
        signs[first[winner, loser]], signs[last[winner, loser]] = 1, -1
        below, above = sizes[np.flatnonzero(signs > 0)[-1]], sizes[np.flatnonzero(signs < 0)[0]]
        if below < above:
            yield _crossing(setting.rows, curves[winner], curves[loser], below, above)


def _crossing(
    rows: Sequence[Record], winner: _Curve, loser: _Curve, below: float, above: float
) -> Crossover:
    sizes = [size for size in winner if size in loser and below <= size <= above]
    pairs = [(rows[winner[size]], rows[loser[size]]) for size in sizes]
    ratios = [math.log(latency_s(one) / latency_s(other)) for one, other in pairs]
    one, other = zip(pairs[0], pairs[-1], strict=True)
    return Crossover(one, other, at=_equal(sizes, ratios), low=below, high=above)


def _equal(sizes: Sequence[float], ratios: Sequence[float]) -> float:
    """Where the ratio of the two latencies is 1, on straight lines between logarithms."""
    steps = zip(itertools.pairwise(sizes), itertools.pairwise(ratios), strict=True)
    for (small, large), (before, after) in steps:
        if before >= 0 >= after and before > after:
            share = before / (before - after)
            return math.exp(math.log(small) + share * math.log(large / small))
    return math.sqrt(sizes[0] * sizes[-1])  # the odd rounds at the ends hide where
