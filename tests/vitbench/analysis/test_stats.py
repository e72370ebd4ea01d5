"""Statistics: against definitions, exact probabilities and simulation."""

from __future__ import annotations

import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitbench.analysis import stats

TIMES = st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=60)


def exact_coverage(count: int, rank: int) -> float:
    """P(the rank-th smallest <= median <= the rank-th largest): of `count` tosses of a coin, at
    least `rank` and at most `count - rank` show heads."""
    ways = sum(math.comb(count, heads) for heads in range(rank, count - rank + 1))
    return ways / 2**count


def rank_of(count: int) -> int:
    """The rank that median_interval took, read from the samples 1, 2, ..., count."""
    interval = stats.median_interval([float(i) for i in range(1, count + 1)])
    assert interval.low + interval.high == count + 1
    return int(interval.low)


@pytest.mark.parametrize("count", range(1, 101))
def test_interval_covers_exactly_enough(count: int) -> None:
    """At least 95%, and the next rank inside would be below it; below 6 samples no rank reaches
    95%, and the widest is taken."""
    rank = rank_of(count)
    assert exact_coverage(count, rank) >= 0.95 or (count < 6 and rank == 1)
    assert rank + 1 > count - rank or exact_coverage(count, rank + 1) < 0.95


@pytest.mark.parametrize("shape", ["normal", "skewed", "two humps"])
def test_interval_covers_in_simulation(shape: str) -> None:
    """The true median lies inside in 95% of draws or more, whatever the distribution."""
    rng = np.random.default_rng(0)
    draws, count = 2000, 25
    size = (draws, count)
    values, truth = {
        "normal": (rng.normal(5.0, 1.0, size), 5.0),
        "skewed": (rng.lognormal(0.0, 1.0, size), 1.0),
        "two humps": (rng.normal(5.0, 0.1, size) + rng.choice([-1.0, 1.0], size), 5.0),
    }[shape]
    intervals = [stats.median_interval(row.tolist()) for row in values]
    inside = sum(interval.low <= truth <= interval.high for interval in intervals)
    assert inside / draws > 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)


@given(TIMES)
def test_median_and_its_interval(samples: list[float]) -> None:
    """The median is the textbook's, inside its interval, whose ends are samples."""
    median, interval = stats.median(samples), stats.median_interval(samples)
    assert median == pytest.approx(statistics.median(samples))
    assert interval.low <= median <= interval.high
    assert {interval.low, interval.high} <= set(samples)


@given(TIMES, st.randoms(), st.sampled_from([0.5, 2.0, 1024.0]))
def test_order_and_unit_do_not_matter(
    samples: list[float], rng: random.Random, factor: float
) -> None:
    """Statistics of the same samples in another order are the same; noise is the same in seconds
    and in milliseconds, and never negative."""
    shuffled = samples.copy()
    rng.shuffle(shuffled)
    for statistic in (stats.median_interval, stats.noise, stats.outliers):
        assert statistic(shuffled) == statistic(samples)
    assert stats.noise([factor * sample for sample in samples]) == pytest.approx(
        stats.noise(samples)
    )
    assert stats.noise(samples) >= 0


def test_noise_by_hand() -> None:
    """Half of (high - low) over the median."""
    assert stats.noise([1.0, 2.0, 3.0]) == 0.5
    assert stats.noise([2.0] * 20) == 0.0
    assert stats.Interval(8.0, 12.0).relative_half_width(10.0) == 0.2


@given(st.lists(TIMES, min_size=1, max_size=5))
def test_interval_over_rounds_holds_every_round(rounds: list[list[float]]) -> None:
    """It holds each round's median and the interval of all samples together."""
    interval = stats.interval_over_rounds(rounds)
    pooled = stats.median_interval([sample for samples in rounds for sample in samples])
    assert interval.low <= pooled.low
    assert pooled.high <= interval.high
    for samples in rounds:
        assert interval.low <= stats.median(samples) <= interval.high


def test_interval_over_rounds_of_processes_that_differ() -> None:
    """Two quiet rounds at 1 and 2 say that the median is known to within 1 to 2, no better."""
    interval = stats.interval_over_rounds([[1.0] * 100, [2.0] * 40])
    assert (interval.low, interval.high) == (1.0, 2.0)
    assert stats.interval_over_rounds([[1.0], []]) == stats.Interval(1.0, 1.0)


def test_outliers_are_counted() -> None:
    """Tukey's fences: 1.5 interquartile ranges beyond the quartiles."""
    assert stats.outliers([1.0] * 10) == 0
    assert stats.outliers([float(i) for i in range(1, 101)]) == 0
    assert stats.outliers([*(float(i) for i in range(1, 101)), 200.0, -120.0]) == 2


@pytest.mark.parametrize("count", [1, 50, 99, 100, 1000])
def test_no_p99_below_100_samples(count: int) -> None:
    """The 99th percentile needs 100 samples."""
    found = stats.percentile([float(i) for i in range(count)], 99)
    assert (found is None) == (count < 100)
    assert found is None or found == pytest.approx(0.99 * (count - 1))


def test_geometric_mean() -> None:
    """Of ratios: inverse ratios cancel."""
    assert stats.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert stats.geometric_mean([1.0, 10.0, 100.0]) == pytest.approx(10.0)
    for ratios in ([], [1.0, 0.0], [-1.0]):
        with pytest.raises(ValueError, match="positive"):
            stats.geometric_mean(ratios)


def test_no_samples_have_no_statistics() -> None:
    """They raise; 0 or NaN would travel on as a figure."""
    for statistic in (stats.median, stats.median_interval):
        with pytest.raises(ValueError, match="not defined"):
            statistic([])
