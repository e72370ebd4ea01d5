"""Statistics of samples. Pure: numbers in, numbers out.

scipy takes half a second to import, which every worker would pay and none needs: functions that
judge import it themselves.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
# Of the interval that must lie within a limit on both sides: two one-sided tests at 5%.
EQUIVALENCE = 0.90


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


def quantile(samples: Sequence[float], share: float) -> float:
    """That share of the samples lies below. Raises ValueError for no samples."""
    if not len(samples):
        raise ValueError("the quantile of no samples is not defined")
    return float(np.quantile(np.asarray(samples), share))


def median_interval(samples: Sequence[float]) -> Interval:
    """The order-statistic interval of the median: no assumption about the distribution.

    Under 6 samples it is from the smallest to the largest, which bracket the median less often
    than CONFIDENCE says.
    """
    if not len(samples):
        raise ValueError("the interval of no samples is not defined")
    ordered = np.sort(np.asarray(samples, dtype=float))
    k = max(1, _median_rank(len(ordered)))
    return Interval(float(ordered[k - 1]), float(ordered[len(ordered) - k]))


@functools.cache
def _median_rank(count: int) -> int:
    """The k of the interval from the k-th smallest to the k-th largest of so many samples.

    They bracket the median with probability 1 - 2 P(Binomial(count, 1/2) < k); k is the largest
    that keeps it at CONFIDENCE, 0 where none does. In whole numbers: `below` outcomes of the
    2^count have fewer than k.
    """
    k, ways, below = 0, 1, 0
    allowed = 2**count * round(1000 * (1 - CONFIDENCE)) // 2000
    while below + ways <= allowed:
        below += ways
        ways = ways * (count - k) // (k + 1)
        k += 1
    return k


def noise(samples: Sequence[float]) -> float:
    """Relative half-width of the 95% interval of the median."""
    return median_interval(samples).relative_half_width(median(samples))


def interval_over_rounds(rounds: Sequence[Sequence[float]]) -> Interval:
    """The interval of the median of all samples, widened to hold every round's median.

    Samples of one process resemble each other more than samples of two, so the order-statistic
    interval of all samples is too narrow where processes differ. The rounds' medians show how much.
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
    """The percentile, or None where there are too few samples for it.

    The p99 needs 100 samples: below, it is the largest of them.
    """
    if len(samples) < 1 / (1 - share / 100):
        return None
    return float(np.percentile(np.asarray(samples), share))


@functools.cache
def student_quantile(tail: float, freedom: float) -> float:
    """Above which a value of Student's t lies with this probability."""
    from scipy import special  # a third of what scipy.stats takes to import

    return -float(special.stdtrit(freedom, tail))


def geometric_mean(ratios: Sequence[float]) -> float:
    """exp(mean(log(ratios))). Raises ValueError for none, or one that is not positive."""
    if not len(ratios) or min(ratios) <= 0:
        raise ValueError("the geometric mean needs positive numbers")
    return math.exp(float(np.mean(np.log(np.asarray(ratios)))))


# From this many rounds on a side, ranks decide: an odd process then moves no end of an interval.
RANK_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of medians, candidate over base, with its 95% interval.

    floor   what identical code shows in 19 of 20 such comparisons, as a share: the A/A floor
    within  the 90% interval, which two one-sided tests at 5% allow (Schuirmann 1987): where it lies
            between two limits, so does the ratio
    """

    value: float
    low: float
    high: float
    floor: float
    within: Interval


def ratio_of_medians(base: Sequence[float], candidate: Sequence[float]) -> Ratio:
    """The ratio of two sets of round medians, each of a process of its own.

    Samples of one process resemble each other, so a round counts as one observation (Kalibera and
    Jones 2013). With RANK_ROUNDS on each side the interval is that of the Hodges-Lehmann shift
    of logarithms (the Mann-Whitney test inverted); with fewer it is Welch's t. With one round on a
    side nothing is known of the spread between processes, and the interval has no ends.
    """
    return ratios_of_medians([(base, candidate)])[0]


# The medians of the rounds of a base and of a candidate, seconds.
RoundsPair = tuple[Sequence[float], Sequence[float]]


def ratios_of_medians(pairs: Sequence[RoundsPair]) -> list[Ratio]:
    """The ratio of each pair; many take little longer than one."""
    ratios: dict[int, Ratio] = {}
    for indices, x, y in _by_shape(pairs):
        ratios |= zip(indices, _ratios(x, y), strict=True)
    return [ratios[index] for index in range(len(pairs))]


def _by_shape(pairs: Sequence[RoundsPair]) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """The pairs with as many rounds on each side, by their indices: the logarithms of all bases and
    of all candidates, a row each."""
    shapes: dict[tuple[int, int], list[int]] = {}
    for index, (base, candidate) in enumerate(pairs):
        shapes.setdefault((len(base), len(candidate)), []).append(index)
    for indices in shapes.values():
        x, y = (np.log(np.array([pairs[i][side] for i in indices], float)) for side in (0, 1))
        yield indices, x, y


def _ratios(x: np.ndarray, y: np.ndarray) -> list[Ratio]:
    n, m = x.shape[1], y.shape[1]
    shifts = np.sort((y[:, :, None] - x[:, None, :]).reshape(len(x), n * m), axis=1)

    def by_ranks(confidence: float) -> tuple[np.ndarray, np.ndarray]:
        k = _mann_whitney_rank(n, m, confidence)
        return shifts[:, k], shifts[:, n * m - 1 - k]

    if min(n, m) < 2:
        centre, floor = np.median(y, axis=1) - np.median(x, axis=1), np.full(len(x), math.inf)
        ends = [(-floor, floor)] * 2
    else:
        is_ranked = min(n, m) >= RANK_ROUNDS
        centre = np.median(shifts, axis=1) if is_ranked else y.mean(axis=1) - x.mean(axis=1)
        end = by_ranks if is_ranked else functools.partial(_welch_ends, x, y)
        floor, ends = _floors(x, y), [end(confidence) for confidence in (CONFIDENCE, EQUIVALENCE)]
    with np.errstate(over="ignore"):  # infinite beyond what a float holds
        figures = np.exp(np.stack([centre, *ends[0], *ends[1]])).T.tolist()
    return [
        Ratio(value, low, high, own_floor, Interval(*within))
        for (value, low, high, *within), own_floor in zip(figures, floor.tolist(), strict=True)
    ]


def _welch(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The shift of each row, its standard error and the degrees of freedom (Welch 1947)."""
    (a, n), (b, m) = ((side.var(axis=1, ddof=1), side.shape[1]) for side in (x, y))
    a, b = a / n, b / m
    with np.errstate(invalid="ignore"):  # of rounds that are all alike, whose error is 0
        freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1))
    return y.mean(axis=1) - x.mean(axis=1), np.sqrt(a + b), np.nan_to_num(freedom, nan=1.0)


def _welch_ends(x: np.ndarray, y: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    from scipy import stats

    shift, error, freedom = _welch(x, y)
    reach = stats.t.ppf(0.5 + confidence / 2, freedom) * error
    return shift - reach, shift + reach


def _ratio(centre: float, ends: Callable[[float], tuple[float, float]], floor: float) -> Ratio:
    """From logarithms; `ends` gives those of the interval of a confidence."""
    (low, high), within = (map(_exp, ends(confidence)) for confidence in (CONFIDENCE, EQUIVALENCE))
    return Ratio(math.exp(centre), low, high, floor, Interval(*within))


# From this many blocks on, at least one block is trimmed at each end.
TRIM_BLOCKS = 6
_TRIMMED = 0.2
# A trimmed interval of 96% holds the truth in 95 of 100 comparisons of 8 blocks, and one of 91% in
# 90 (simulated, with and without odd processes: tests/vitbench/analysis/test_compare.py).
_TRIMMED_MORE = 0.01


def ratio_of_blocks(shifts: Sequence[float]) -> Ratio:
    """The ratio from interleaved blocks: each shift is log(candidate / base) of one block.

    Both sides of a block run in the same minute, so the machine's drift cancels and a block counts
    as one observation. One process in twenty can be 2.7 times slower than its neighbours, which
    moves its block far, in either direction. So the centre is the mean without a fifth of the
    blocks at each end, and its interval that of Tukey and McLaughlin (1963). With fewer than
    TRIM_BLOCKS nothing is trimmed (Student's t); with one block the interval has no ends.
    """
    from scipy import stats

    values = np.asarray(shifts, dtype=float)
    count = len(values)
    if count < 2:
        return _ratio(float(values[0]), lambda _: (-math.inf, math.inf), math.inf)

    centre, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(count)
    freedom, more = count - 1, 0.0
    if count >= TRIM_BLOCKS:
        centre = float(stats.trim_mean(values, _TRIMMED))
        error = float(stats.mstats.trimmed_stde(values, (_TRIMMED, _TRIMMED)))
        freedom, more = count - 2 * int(_TRIMMED * count) - 1, _TRIMMED_MORE

    def ends(confidence: float) -> tuple[float, float]:
        reach = float(stats.t.ppf(0.5 + (confidence + more) / 2, freedom)) * error
        return centre - reach, centre + reach

    floor = math.expm1(1.96 * float(_scale(values)) / math.sqrt(count))
    return _ratio(centre, ends, floor)


def _exp(value: float) -> float:
    """exp, infinite beyond what a float holds: three blocks may know very little."""
    return math.exp(value) if value < 700 else math.inf


def p_slower_in_blocks(shifts: Sequence[float]) -> float:
    """One-sided p-value for the candidate being slower, by the signs of the blocks' shifts: an odd
    process changes one sign, however slow it is.
    """
    from scipy import stats

    slower, faster = (sum(sign * shift > 0 for shift in shifts) for sign in (1, -1))
    if slower + faster == 0:
        return 1.0
    return float(stats.binomtest(slower, slower + faster, alternative="greater").pvalue)


@functools.cache
def _mann_whitney_rank(n: int, m: int, confidence: float) -> int:
    """How many of the n m sorted differences lie outside each end of the interval.

    The largest k with P(U < k) <= (1 - confidence) / 2, from the exact distribution of U: the
    number of ways to place the ranks, counted by the recursion of Mann and Whitney (1947).
    """
    ways = np.ones(1)
    for j in range(1, m + 1):  # the generating function: products of (1 - q^(n+j)) / (1 - q^j)
        numerator, denominator = (np.r_[1.0, np.zeros(k - 1), -1.0] for k in (n + j, j))
        ways = np.polydiv(np.convolve(ways, numerator), denominator)[0]
    below = np.cumsum(ways) / ways.sum()
    return max(0, int(np.searchsorted(below, (1 - confidence) / 2, side="right")) - 1)


def _floors(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """1.96 standard errors of the difference, from what rounds of one side differ by; of rows."""
    a, b = (_scale(side) ** 2 / side.shape[1] for side in (x, y))
    floors: np.ndarray = np.expm1(1.96 * np.sqrt(a + b))
    return floors


def _scale(values: np.ndarray) -> np.ndarray:
    """The standard deviation along the last axis, by the median absolute deviation: one odd value
    does not move it."""
    deviations = np.abs(values - np.median(values, axis=-1, keepdims=True))
    scale: np.ndarray = np.maximum(1.4826 * np.median(deviations, axis=-1), _SMALL)
    return scale


_SMALL = 1e-6


def p_slower(base: Sequence[float], candidate: Sequence[float]) -> float:
    """One-sided p-value for the candidate's rounds being slower than the base's.

    Mann-Whitney from RANK_ROUNDS on, else Welch's t; 1 where a side has one round.
    """
    return p_slower_each([(base, candidate)])[0]


def p_slower_each(pairs: Sequence[RoundsPair]) -> list[float]:
    """The p-value of each pair; many take little longer than one."""
    p_values = [1.0] * len(pairs)
    for indices, x, y in _by_shape(pairs):
        fewest = min(x.shape[1], y.shape[1])
        if fewest >= 2:
            found = _p_of_ranks(x, y) if fewest >= RANK_ROUNDS else _p_of_welch(x, y)
            for index, p_value in zip(indices, found.tolist(), strict=True):
                p_values[index] = p_value
    return p_values


def _p_of_ranks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Exact where no two rounds are equal, as scipy chooses for one pair."""
    from scipy import stats

    has_ties = (np.diff(np.sort(np.hstack([x, y]), axis=1), axis=1) == 0).any(axis=1)
    p_values = np.ones(len(x))
    for rows in (has_ties, ~has_ties):
        if rows.any():
            test = stats.mannwhitneyu(y[rows], x[rows], alternative="greater", axis=1)
            p_values[rows] = test.pvalue
    return p_values


def _p_of_welch(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy import stats

    shift, error, freedom = _welch(x, y)
    with np.errstate(divide="ignore", invalid="ignore"):  # of rounds that are all alike
        p_values = np.asarray(stats.t.sf(shift / error, freedom))
    return np.where(np.isnan(p_values), 1.0, p_values)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values that hold together (Holm 1979)."""
    values, count = np.asarray(p_values, float), len(p_values)
    order = np.argsort(values)
    steps = np.minimum(1.0, (count - np.arange(count)) * values[order])
    adjusted = np.empty(count)
    adjusted[order] = np.maximum.accumulate(steps)
    corrected: list[float] = adjusted.tolist()
    return corrected
