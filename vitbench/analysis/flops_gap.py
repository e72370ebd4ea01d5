"""How far MACs foretell latency: their rank correlation, and who is misjudged by them. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vitbench.analysis.groups import Setting, latency_s
from vitbench.analysis.order import Rounds, Spread
from vitbench.analysis.stats import CONFIDENCE, Interval
from vitbench.results.record import Record

# A rank correlation of fewer subjects says nothing.
MIN_SUBJECTS = 5
_RESAMPLES = 200
# Subjects at either end of the time for each MAC, among which the misjudged pair is sought.
_MOST = 20
_TRIED = 5  # pairs, the most striking first


@dataclass(frozen=True, slots=True)
class Misjudged:
    """`slow` has fewer MACs than `fast`, and takes longer beyond noise.

    macs, latency  the factors between the two, above 1 each
    """

    slow: Record
    fast: Record
    macs: float
    latency: float


@dataclass(frozen=True, slots=True)
class FlopsGap:
    """MACs against latency in one setting.

    records      the rows, the fewest MACs first
    correlation  Spearman's, 1 where MACs order the subjects as their latencies do
    misjudged    the pair of which MACs say the opposite most strikingly; None: no pair beyond noise
    """

    records: tuple[Record, ...]
    correlation: float
    misjudged: Misjudged | None

    @property
    def within(self) -> Interval:
        """The 95% interval of the correlation, by resampling the subjects. Computed anew each time:
        it takes longer than all else, and few of many settings are shown."""
        macs, latencies = (np.array([of(row) for row in self.records]) for of in (_macs, latency_s))
        found = _correlations(macs, latencies, _resamples(len(macs)))
        tail = (1 - CONFIDENCE) / 2
        low, high = np.nanquantile(found, [tail, 1 - tail]).tolist()
        return Interval(min(low, self.correlation), max(high, self.correlation))


def gaps(settings: Iterable[Setting]) -> list[FlopsGap]:
    """One for each of these settings with five subjects or more, the lowest correlation first."""
    found = []
    for setting in settings:
        macs = np.array([_macs(row) for row in setting.rows])
        if np.count_nonzero(macs) >= MIN_SUBJECTS and len(np.unique(macs[macs > 0])) > 1:
            found.append(_gap(setting, macs))
    return sorted(found, key=lambda gap: gap.correlation)


def _macs(row: Record) -> float:
    """0 where they are not known: where they are only a lower bound they order nothing."""
    return 0.0 if row["macs_is_lower_bound"] else float(row["macs"] or 0)


def _gap(setting: Setting, all_macs: np.ndarray) -> FlopsGap:
    order = np.argsort(all_macs, kind="stable")
    order = order[all_macs[order] > 0]
    rows = tuple(setting.rows[i] for i in order.tolist())
    macs, latencies = all_macs[order], np.array([latency_s(row) for row in rows])
    (correlation,) = _correlations(macs, latencies, np.ones((1, len(rows)))).tolist()
    misjudged = _misjudged(rows, macs, latencies, setting.rounds[order], setting.spread)
    return FlopsGap(rows, correlation, misjudged)


@functools.lru_cache(maxsize=64)
def _resamples(count: int) -> np.ndarray:
    """How often each of so many subjects is drawn, resample by resample; the same every time."""
    drawn = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
    times = np.zeros((_RESAMPLES, count))
    np.add.at(times, (np.arange(_RESAMPLES)[:, None], drawn), 1)
    return times


def _correlations(a: np.ndarray, b: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Spearman's correlation where each subject occurs so many times: a row for each resample.
    NaN where a resample holds one value only."""
    x, y = (_ranks(values, times) for values in (a, b))
    total = times.sum(axis=1, keepdims=True)
    x, y = (side - (times * side).sum(axis=1, keepdims=True) / total for side in (x, y))
    both, own, other = ((times * product).sum(axis=1) for product in (x * y, x * x, y * y))
    spread = np.sqrt(own * other)
    found: np.ndarray = np.divide(both, spread, out=np.full(len(both), np.nan), where=spread > 0)
    return found


def _ranks(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The mean rank of each value among those drawn; equal values share theirs."""
    distinct, where = np.unique(values, return_inverse=True)
    order_of = np.argsort(where, kind="stable")
    starts = np.searchsorted(where[order_of], np.arange(len(distinct)))
    counts = np.add.reduceat(times[:, order_of], starts, axis=1)
    ranks: np.ndarray = (np.cumsum(counts, axis=1) - (counts - 1) / 2)[:, where]
    return ranks


def _misjudged(
    rows: Sequence[Record], macs: np.ndarray, latencies: np.ndarray, rounds: Rounds, spread: Spread
) -> Misjudged | None:
    """The pair with the largest product of the two factors that noise allows."""
    by_cost = np.argsort(latencies / macs, kind="stable")
    fast, slow = by_cost[:_MOST, None], by_cost[None, -_MOST:]
    more, times = macs[fast] / macs[slow], latencies[slow] / latencies[fast]
    score = np.where((more > 1) & (times > 1), more * times, 0.0)
    best = np.unravel_index(np.argsort(-score, axis=None)[:_TRIED], score.shape)
    gaps = spread.gaps(rounds[fast[best[0], 0]], rounds[slow[0, best[1]]], len(rows) ** 2)
    for i, j in np.transpose(best)[(score[best] > 0) & (gaps > 1)].tolist():
        quick, late = rows[fast[i, 0]], rows[slow[0, j]]
        return Misjudged(late, quick, float(more[i, j]), float(times[i, j]))
    return None
