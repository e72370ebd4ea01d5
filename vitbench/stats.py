"""Statistics of samples. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval, in the unit of the samples."""

    low: float
    high: float

    def relative_half_width(self, centre: float) -> float:
        """Half the width as a share of `centre`: what we call noise."""
        return (self.high - self.low) / (2 * centre)


def median(samples: Sequence[float]) -> float:
    """The sample median. Raises ValueError for no samples."""
    if not len(samples):
        raise ValueError("the median of no samples is not defined")
    return float(np.median(np.asarray(samples)))


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The order-statistic interval of the median: no assumption about the distribution.

    The k-th smallest and k-th largest sample bracket the median with probability
    1 - 2 P(Binomial(n, 1/2) < k); k is the largest rank that keeps it at `confidence`. Under 6
    samples no rank does (at 95%), and the interval is from the smallest to the largest.
    """
    if not len(samples):
        raise ValueError("the interval of no samples is not defined")
    ordered = np.sort(np.asarray(samples, dtype=float))
    count = len(ordered)
    ranks = np.arange(count // 2 + 1)
    tails = 2 * special.bdtr(ranks, count, 0.5)  # 2 P(X <= rank) = 2 P(X < rank + 1)
    k = int(np.searchsorted(tails, 1 - confidence, side="right"))
    k = max(k, 1)
    return Interval(float(ordered[k - 1]), float(ordered[count - k]))


def noise(samples: Sequence[float]) -> float:
    """Relative half-width of the 95% interval of the median."""
    return median_interval(samples).relative_half_width(median(samples))


def interval_over_rounds(rounds: Sequence[Sequence[float]]) -> Interval:
    """The interval of the median of all samples, widened to hold every round's median.

    Samples of one process resemble each other more than samples of two, so the order-statistic
    interval of the pool is too narrow wherever processes differ; the rounds' own medians show by
    how much.
    """
    measured = [samples for samples in rounds if len(samples)]
    pooled = median_interval(np.concatenate([np.asarray(samples) for samples in measured]).tolist())
    medians = [median(samples) for samples in measured]
    return Interval(min(pooled.low, *medians), max(pooled.high, *medians))


def outliers(samples: Sequence[float]) -> int:
    """How many samples lie beyond Tukey's fences (1.5 interquartile ranges). None is dropped."""
    values = np.asarray(samples, dtype=float)
    first, third = np.percentile(values, [25, 75])
    reach = 1.5 * (third - first)
    return int(((values < first - reach) | (values > third + reach)).sum())


def percentile(samples: Sequence[float], share: float) -> float | None:
    """The percentile, or None where there are too few samples to speak of it.

    The p99 needs 100 samples: below, it is the largest of them.
    """
    if len(samples) < 1 / (1 - share / 100):
        return None
    return float(np.percentile(np.asarray(samples), share))


def geometric_mean(ratios: Sequence[float]) -> float:
    """exp(mean(log(ratios))). Raises ValueError for none, or one that is not positive."""
    if not len(ratios) or min(ratios) <= 0:
        raise ValueError("the geometric mean needs positive numbers")
    return math.exp(float(np.mean(np.log(np.asarray(ratios)))))
