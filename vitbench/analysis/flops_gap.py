"""How far MACs foretell latency: their rank correlation, and who is misjudged by them. Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitbench.analysis.groups import SUBJECT, groups, latency_s, trusted
from vitbench.analysis.order import Spread
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
    within       its 95% interval, by resampling the subjects
    misjudged    the pair of which MACs say the opposite most strikingly; None: no pair beyond noise
    """

    records: tuple[Record, ...]
    correlation: float
    within: Interval
    misjudged: Misjudged | None


def gaps(records: Sequence[Record]) -> list[FlopsGap]:
    """One for each setting with five subjects or more, the lowest correlation first."""
    found = []
    for rows in groups(records, SUBJECT):
        measured = [row for row in trusted(rows) if row["macs"] and not _is_bound(row)]
        if len(measured) >= MIN_SUBJECTS and len({_macs(row) for row in measured}) > 1:
            found.append(_gap(sorted(measured, key=_macs)))
    return sorted(found, key=lambda gap: gap.correlation)


def _is_bound(record: Record) -> bool:
    """MACs that are only a lower bound order nothing."""
    return bool(record["macs_is_lower_bound"])


def _macs(row: Record) -> float:
    return float(row["macs"] or 0)


def _gap(measured: Sequence[Record]) -> FlopsGap:
    macs = np.array([_macs(row) for row in measured])
    latencies = np.array([latency_s(row) for row in measured])
    correlation, *resampled = _correlations(macs, latencies, _resamples(len(measured))).tolist()
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile([one for one in resampled if not math.isnan(one)], [tail, 1 - tail])
    within = Interval(min(float(low), correlation), max(float(high), correlation))
    rows = tuple(measured)
    return FlopsGap(rows, correlation, within, _misjudged(measured))


@functools.lru_cache(maxsize=64)
def _resamples(count: int) -> np.ndarray:
    """How often each of so many subjects is drawn: once each, then resample by resample; the same
    every time."""
    drawn = np.random.default_rng(0).integers(0, count, (_RESAMPLES, count))
    times = np.zeros((_RESAMPLES, count))
    np.add.at(times, (np.arange(_RESAMPLES)[:, None], drawn), 1)
    return np.vstack([np.ones(count), times])


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


def _misjudged(measured: Sequence[Record]) -> Misjudged | None:
    """The pair with the largest product of the two factors that noise allows."""
    by_cost = sorted(measured, key=lambda row: latency_s(row) / _macs(row))
    fast, slow = by_cost[:_MOST], by_cost[-_MOST:]
    macs = np.divide.outer([_macs(row) for row in fast], [_macs(row) for row in slow])
    times = np.divide.outer([1 / latency_s(row) for row in fast], [1 / latency_s(r) for r in slow])
    score = np.where((macs > 1) & (times > 1), macs * times, 0.0)
    spread = Spread.of(measured)
    for place in np.argsort(-score, axis=None)[:_TRIED].tolist():
        i, j = divmod(place, len(slow))
        if score[i, j] > 0 and spread.gap(fast[i], slow[j], len(measured) ** 2) > 1:
            return Misjudged(slow[j], fast[i], float(macs[i, j]), float(times[i, j]))
    return None
