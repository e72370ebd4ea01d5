"""The order of two rows: beyond what processes differ by, and no further."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats

from tests import synthetic_records as synthetic
from vitbench.analysis.order import CONFIDENCE, NEAR, Rounds, Spread, medians_of
from vitbench.results.record import Record


def row(runtime: str, *medians_s: float) -> Record:
    """A measured row with these round medians."""
    text = " ".join(f"{value:.9g}" for value in medians_s)
    return {"runtime": runtime, "round_medians": text, "latency_s": medians_s[0]}


def spread_of(rows: Sequence[Record]) -> Spread:
    return Spread.of(Rounds.of(rows))


def sign(spread: Spread, *pair: Record, pairs: int = 1) -> int:
    one, other = (Rounds.of([row]) for row in pair)
    return int(spread.signs(one, other, pairs)[0])


def identical(
    rng: np.random.Generator, runtimes: int, subjects: int, rounds: int
) -> list[list[Record]]:
    """Rows of the same code: processes differ by 2%, what they compute by another 1%, and one
    process in twenty is slower by up to 2.7 times."""
    made = []
    for number in range(runtimes):
        odd = np.where(rng.random(rounds) < 0.05, np.log(rng.uniform(1.1, 2.7, rounds)), 0.0)
        process = rng.normal(0, 0.02, rounds) + odd
        medians = np.exp(process + rng.normal(0, 0.01, (subjects, rounds)))
        made.append([row(f"runtime{number}", *own) for own in medians])
    return made


@pytest.mark.parametrize("rounds", [2, 3, 5])
@pytest.mark.parametrize("runtimes", [2, 6])
def test_identical_runtimes_are_alike(runtimes: int, rounds: int) -> None:
    """In at least 98 of 100 comparisons, each way."""
    rng, called, count = np.random.default_rng(0), 0, 0
    for _ in range(40):
        made = identical(rng, runtimes, 5, rounds)
        spread = spread_of([one for own in made for one in own])
        for first, second in zip(made[0], made[1], strict=True):
            called += max(spread.gap(first, second), spread.gap(second, first)) > 1
            count += 1
    assert called <= 0.02 * count


def differing(factor: float, noise: Sequence[float]) -> tuple[Record, Record]:
    """Two runtimes whose rounds differ by this much."""
    return row("a", *(1 + n for n in noise)), row("b", *(factor * (1 + n) for n in noise))


def test_a_difference_beyond_the_processes_is_told() -> None:
    """With at least how large it is; the other way round there is none."""
    quick, slow = differing(1.2, (0.0, 0.01, 0.005))
    spread = spread_of([quick, slow])
    assert 1.1 < spread.gap(quick, slow) < 1.2
    assert spread.gap(slow, quick) < 1


def test_one_round_knows_no_order() -> None:
    """Nor do no rows."""
    quick, slow = differing(3.0, (0.0,))
    assert spread_of([quick, slow]).gap(quick, slow) < 1
    assert spread_of([]).pooled == math.inf


def test_a_row_whose_own_rounds_differ_has_no_order() -> None:
    """However quiet the others of the run are."""
    quick, slow = differing(1.2, (0.0, 0.001, 0.002))
    odd = row("b", 1.2, 1.2, 2.4)
    quiet = [one for _ in range(10) for one in differing(1.2, (0.0, 0.001, 0.002))]
    spread = spread_of([*quiet, quick, slow])
    assert spread.gap(quick, slow) > 1.1
    assert spread.gap(quick, odd) < 1


def test_rows_of_one_process_share_its_luck() -> None:
    """So more is known of two rows of a runtime than of two runtimes."""
    rows = [row("a", 1 + 0.001 * k, 1.01 + 0.002 * (k % 3)) for k in range(8)]
    spread = spread_of(rows)
    assert (spread.rounds, spread.processes) == (8, 1)
    quick, slow = row("a", 1.0, 1.01), row("a", 1.1, 1.11)
    assert spread.gap(quick, slow) > 1
    assert spread.gap(quick, slow | {"runtime": "b"}) < 1


PAIR = synthetic.cases(attention=("msa", "hilo"))


def drawn(rng: np.random.Generator, count: int, factor: float = 1.0) -> list[Record]:
    """Two rows of so many rounds, the second slower by a factor; of the processes of each one in
    twenty is 2.7 times slower."""
    return [
        synthetic.record(
            one, synthetic.rounds(rng, 0.01 * (factor if one is PAIR[1] else 1), count)
        )
        for one in PAIR
    ]


@pytest.mark.parametrize("others", [0, 20])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_of_100_pairs_of_equals_2_are_called_at_most(count: int, others: int) -> None:
    """Alone, and beside rows from which more is known of how far processes differ."""
    rng, called = np.random.default_rng(0), 0
    for _ in range(300):
        pair = drawn(rng, count)
        more = [row for _ in range(others // 2) for row in drawn(rng, count)]
        called += bool(sign(spread_of([*pair, *more]), *pair))
    assert called <= 6


@pytest.mark.parametrize(("count", "factor", "least"), [(2, 1.5, 65), (3, 1.4, 90), (5, 1.4, 90)])
def test_what_differs_is_called(count: int, factor: float, least: int) -> None:
    """50% from two rounds, 40% from three; the wrong way round no more often than equals are."""
    rng, signs = np.random.default_rng(0), []
    for _ in range(100):
        pair = drawn(rng, count, factor)
        spread = spread_of([*pair, *drawn(rng, count), *drawn(rng, count)])
        signs.append(sign(spread, *pair))
    assert signs.count(-1) >= least
    assert signs.count(1) <= 1


def test_the_more_pairs_the_clearer_an_order_must_be() -> None:
    """By Bonferroni; the sign is that of the faster one, whichever is named first."""
    pair = differing(1.1, (0.0, 0.02, 0.01))
    spread = spread_of(pair)
    assert spread.gap(*pair) > spread.gap(*pair, pairs=10)
    assert [sign(spread, *pair), sign(spread, *pair[::-1])] == [-1, 1]
    assert sign(spread, *pair, pairs=10_000) == 0


def test_level_are_the_fastest_and_its_ties() -> None:
    """The fastest first; what is slower beyond noise is left out."""
    rows = [row("a", 1.02, 1.03), row("a", 2.0, 2.02), row("a", 1.0, 1.01)]
    assert spread_of(rows).level(rows) == [rows[2], rows[0]]
    assert spread_of(rows[:1]).level(rows[:1]) == rows[:1]


@pytest.mark.parametrize("is_alike", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_gaps_of_many_pairs_are_those_of_each(count: int, is_alike: bool) -> None:
    """By the formula, one pair after another; a row that is not there has no order."""
    rng = np.random.default_rng(count)
    told = set()
    for size in (1, 2, 30):
        ones = [row("a", *np.exp(rng.normal(0, 0.02, count))) for _ in range(size)]
        others = [
            row("a" if is_alike else "b", *np.exp(shift + rng.normal(0, 0.02, count)))
            for shift in rng.normal(0, 0.3, size)
        ]
        spread = spread_of([*ones, *others])
        first, second = Rounds.of([*ones, None]), Rounds.of([*others, others[0]])
        gaps, signs = (of(first, second, size) for of in (spread.gaps, spread.signs))
        assert not gaps[-1] > 1
        assert signs[-1] == 0
        expected = [by_formula(spread, *pair, size) for pair in zip(ones, others, strict=True)]
        np.testing.assert_allclose(gaps[:-1], expected, rtol=1e-12)
        told |= {*signs.tolist()}
        table = spread.gaps(first[:, None], second[None], size)
        np.testing.assert_array_equal(np.diagonal(table), gaps)
    if count > 2:  # fewer rounds tell nothing between two runtimes
        assert told == {-1, 0, 1}


def by_formula(spread: Spread, quick: Record, slow: Record, pairs: int) -> float:
    """The lower end of Student's interval of the difference of the mean logarithms, or what is
    beyond 20% between all rounds but the slowest third of the faster row."""
    one, other = (sorted(math.log(m) for m in medians_of(each)) for each in (quick, slow))
    freedom = spread.rounds if quick["runtime"] == slow["runtime"] else spread.processes
    at_least = -math.inf
    if freedom:
        own = math.sqrt((_variance(one) + _variance(other)) / 2)
        error = max(spread.pooled, own) * math.sqrt(1 / len(one) + 1 / len(other))
        reach = float(scipy.stats.t.isf((1 - CONFIDENCE) / (2 * pairs), freedom))
        at_least = statistics.fmean(other) - statistics.fmean(one) - reach * error
    beyond = other[0] - one[len(one) - 1 - len(one) // 3] - math.log(NEAR)
    if beyond > 0 and 2 * 0.05 ** len(other) * pairs <= 1 - CONFIDENCE:
        at_least = max(at_least, beyond)
    return math.exp(at_least)


def _variance(values: Sequence[float]) -> float:
    return statistics.variance(values) if len(values) > 1 else 0.0
