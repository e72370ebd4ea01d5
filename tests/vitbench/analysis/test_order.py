"""The order of two rows: beyond what processes differ by, and no further."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from tests import synthetic_records as synthetic
from vitbench.analysis.order import Rounds, Spread, may_be_faster
from vitbench.results.record import Record


def row(runtime: str, *medians_s: float) -> Record:
    """A measured row with these round medians."""
    text = " ".join(f"{value:.9g}" for value in medians_s)
    return {"runtime": runtime, "round_medians": text, "latency_s": medians_s[0]}


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
        spread = Spread.of(one for own in made for one in own)
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
    spread = Spread.of([quick, slow])
    assert 1.1 < spread.gap(quick, slow) < 1.2
    assert spread.gap(slow, quick) < 1


def test_one_round_knows_no_order() -> None:
    """Nor do no rows."""
    quick, slow = differing(3.0, (0.0,))
    assert Spread.of([quick, slow]).gap(quick, slow) < 1
    assert Spread.of([]).pooled == math.inf


def test_a_row_whose_own_rounds_differ_has_no_order() -> None:
    """However quiet the others of the run are."""
    quick, slow = differing(1.2, (0.0, 0.001, 0.002))
    odd = row("b", 1.2, 1.2, 2.4)
    quiet = [one for _ in range(10) for one in differing(1.2, (0.0, 0.001, 0.002))]
    spread = Spread.of([*quiet, quick, slow])
    assert spread.gap(quick, slow) > 1.1
    assert spread.gap(quick, odd) < 1


def test_rows_of_one_process_share_its_luck() -> None:
    """So more is known of two rows of a runtime than of two runtimes."""
    rows = [row("a", 1 + 0.001 * k, 1.01 + 0.002 * (k % 3)) for k in range(8)]
    spread = Spread.of(rows)
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
        called += bool(Spread.of([*pair, *more]).sign(pair[0], pair[1]))
    assert called <= 6


@pytest.mark.parametrize(("count", "factor", "least"), [(2, 1.5, 65), (3, 1.4, 90), (5, 1.4, 90)])
def test_what_differs_is_called(count: int, factor: float, least: int) -> None:
    """50% from two rounds, 40% from three; the wrong way round no more often than equals are."""
    rng, signs = np.random.default_rng(0), []
    for _ in range(100):
        pair = drawn(rng, count, factor)
        spread = Spread.of([*pair, *drawn(rng, count), *drawn(rng, count)])
        signs.append(spread.sign(pair[0], pair[1]))
    assert signs.count(-1) >= least
    assert signs.count(1) <= 1


def test_the_more_pairs_the_clearer_an_order_must_be() -> None:
    """By Bonferroni; the sign is that of the faster one, whichever is named first."""
    pair = differing(1.1, (0.0, 0.02, 0.01))
    spread = Spread.of(pair)
    assert spread.gap(*pair) > spread.gap(*pair, pairs=10)
    assert [spread.sign(*pair), spread.sign(pair[1], pair[0])] == [-1, 1]
    assert spread.sign(*pair, pairs=10_000) == 0


def test_level_are_the_fastest_and_its_ties() -> None:
    """The fastest first; what is slower beyond noise is left out."""
    rows = [row("a", 1.02, 1.03), row("a", 2.0, 2.02), row("a", 1.0, 1.01)]
    assert Spread.of(rows).level(rows) == [rows[2], rows[0]]
    assert Spread.of(rows[:1]).level(rows[:1]) == rows[:1]


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_what_is_faster_may_be_faster(count: int) -> None:
    """Every order that is known is among those that may be, which are not all; a row that is not
    there has none."""
    rng = np.random.default_rng(count)
    rows = [
        one for factor in (1.0, 1.1, 1.5) for _ in range(5) for one in drawn(rng, count, factor)
    ]
    may, spread = may_be_faster([*rows, None]), Spread.of(rows)
    known = np.array([[spread.gap(one, other) > 1 for other in rows] for one in rows])
    assert known.any() == (count > 1)
    assert not (known & ~may[:-1, :-1]).any()
    assert not may[-1].any()
    assert not may[:, -1].any()
    assert may[:-1, :-1].mean() < 0.75


@pytest.mark.parametrize("is_alike", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_signs_of_many_pairs_are_those_of_each(count: int, is_alike: bool) -> None:
    rng = np.random.default_rng(count)
    told = set()
    for size in (1, 2, 30):
        shifts = rng.normal(0, 0.3, size)
        pairs = [
            (
                row("a", *np.exp(rng.normal(0, 0.02, count))),
                row("a" if is_alike else "b", *np.exp(shift + rng.normal(0, 0.02, count))),
            )
            for shift in shifts
        ]
        spread = Spread.of(one for pair in pairs for one in pair)
        rounds = [(Rounds.of(one), Rounds.of(other)) for one, other in pairs]
        signs = spread.signs(rounds, is_alike=is_alike)
        assert signs == [spread.sign(one, other, len(pairs)) for one, other in pairs]
        told |= {*signs}
    if count > 2:  # fewer rounds tell nothing between two runtimes
        assert told == {-1, 0, 1}
