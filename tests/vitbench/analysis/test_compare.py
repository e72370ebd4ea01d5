"""Run against run: coverage of the intervals, error rates of the verdicts, and what is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vitbench.examples import case, environment, facts, measured
from vitbench.analysis import compare, stats
from vitbench.analysis.compare import Verdict
from vitbench.cases.row import name_of
from vitbench.errors import BadInput
from vitbench.results.outcome import Failed
from vitbench.results.record import Record, build_record


def row(*medians_s: float, **changes: object) -> Record:
    """A row of rounds with these medians."""
    told = {key: changes.pop(key) for key in ("facts", "machine") if key in changes}
    outcomes = [measured(*[median] * 10, facts=told.get("facts", facts())) for median in medians_s]
    return build_record(case(**changes), outcomes, None, told.get("machine", environment()))  # type: ignore[arg-type] # a dict of two kinds


def retimed(record: Record, medians_s: Sequence[float]) -> Record:
    """A row with other medians of its rounds."""
    return record | {"round_medians": " ".join(map(str, medians_s))}


def verdict(base: Record, candidate: Record, **options: object) -> Verdict:
    """Of one case."""
    (found,) = compare.compare([base], [candidate], **options)  # type: ignore[arg-type] # keywords
    return found


def rounds(
    rng: np.random.Generator, count: int, odd: float = 0.0, scale: float = 0.03
) -> list[float]:
    """Round medians of one kind of process; a share of them is 2.7 times slower, as was seen."""
    noise = np.exp(rng.normal(0, scale, count))
    return (0.01 * noise * np.where(rng.random(count) < odd, 2.7, 1.0)).tolist()


def ratio_of_rounds(rng: np.random.Generator, count: int, odd: float) -> stats.Ratio:
    """1.1, from round medians."""
    base, candidate = (np.asarray(rounds(rng, count, odd)) for _ in range(2))
    return stats.ratio_of_medians(base.tolist(), (1.1 * candidate).tolist())


def ratio_of_blocks(rng: np.random.Generator, count: int, odd: float) -> stats.Ratio:
    """1.1, from blocks: an odd process on one of the sides makes a block worth nothing."""
    far = math.log(2.7) * rng.choice([-1, 1], count)
    noise = rng.normal(0, 0.02, count) + np.where(rng.random(count) < odd, far, 0.0)
    return stats.ratio_of_blocks((math.log(1.1) + noise).tolist())


@pytest.mark.parametrize(
    ("ratio", "count", "odd"),
    [
        *itertools.product([ratio_of_rounds], [2, 3, 4, 5, 8], [0.0, 0.05]),
        *itertools.product([ratio_of_blocks], [2, 4, 6, 8, 12, 24], [0.0, 0.1]),
    ],
)
def test_the_interval_holds_the_truth(
    ratio: Callable[[np.random.Generator, int, float], stats.Ratio], count: int, odd: float
) -> None:
    """In at least 95 of 100 comparisons, also where one process in twenty is far slower; and in 90
    the one for equivalence."""
    rng = np.random.default_rng(count)
    ratios = [ratio(rng, count, odd) for _ in range(500)]
    # 475 and 450, less three standard errors of 500 comparisons
    assert sum(one.low <= 1.1 <= one.high for one in ratios) >= 460
    assert sum(one.within.low <= 1.1 <= one.within.high for one in ratios) >= 430
    assert all(one.low <= one.within.low <= one.within.high <= one.high for one in ratios)


@pytest.mark.parametrize("count", [6, 8, 12, 24])
def test_what_lies_on_the_limit_is_not_the_same(count: int) -> None:
    """A case slower by exactly the limit is the same in at most 5 of 100 comparisons."""
    rng = np.random.default_rng(count)
    base = candidate = [row(1.0)]
    same = 0
    for _ in range(200):
        blocks = {name_of(row(1.0)): (math.log(1.05) + rng.normal(0, 0.02, count)).tolist()}
        (found,) = compare.compare(base, candidate, threshold=0.05, blocks=blocks)
        same += found.word == "same"
    assert same <= 19  # 10, and three standard errors


def test_an_odd_process_does_not_widen_the_interval_of_blocks() -> None:
    """One block in eight of a process 2.7 times slower leaves the others' interval as it was."""
    quiet = [-0.01, -0.005, 0.0, 0.002, 0.004, 0.006, 0.01, 0.012]
    odd = [*quiet[:-1], 1.0]
    before, after = stats.ratio_of_blocks(quiet), stats.ratio_of_blocks(odd)
    assert after == before


@given(st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=30))
def test_blocks_the_other_way_round(shifts: list[float]) -> None:
    """Sides exchanged, the ratio and its interval are the inverse, and the p-value the opposite."""
    there = stats.ratio_of_blocks(shifts)
    back = stats.ratio_of_blocks([-shift for shift in shifts])
    assert back.value == pytest.approx(1 / there.value)
    if len(shifts) > 1:
        assert back.low == pytest.approx(1 / there.high, rel=1e-9)
    both = stats.p_slower_in_blocks(shifts), stats.p_slower_in_blocks([-s for s in shifts])
    assert max(both) >= 0.5


@pytest.mark.parametrize("count", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8))])
def test_identical_code_is_not_called(count: int) -> None:
    """Of 200 comparisons of five cases with identical code at most one calls anything."""
    rng = np.random.default_rng(count)
    cases = [row(1.0, batch_size=n) for n in range(1, 6)]
    called = 0
    for _ in range(200):
        base = [retimed(case, rounds(rng, count, 0.05)) for case in cases]
        candidate = [retimed(case, rounds(rng, count, 0.05)) for case in cases]
        words = {found.word for found in compare.compare(base, candidate, threshold=0.05)}
        called += bool(words & {"slower", "faster"})
    assert called <= 2


def test_a_slowdown_is_called() -> None:
    """30% with six rounds a side and 3% between processes: slower, and the other way faster."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(50):
        base, slow = rounds(rng, 6), (1.3 * np.asarray(rounds(rng, 6))).tolist()
        found.append(verdict(row(*base), row(*slow)).word)
        assert verdict(row(*slow), row(*base)).word in ("faster", "undecided")
    assert found.count("slower") >= 48


def test_the_same_is_told_from_undecided() -> None:
    """Quiet rounds show that nothing changed; noisy ones leave it open and say what would help."""
    quiet = verdict(row(1.0, 1.001, 0.999, 1.0, 1.002), row(1.001, 1.0, 1.0, 0.999, 1.001))
    assert quiet.word == "same"
    noisy = verdict(row(1.0, 1.3, 0.8), row(1.1, 0.9, 1.25))
    assert noisy.word == "undecided"
    assert "rounds" in noisy.why
    lone = verdict(row(1.0), row(2.0))
    assert lone.word == "undecided"
    assert "take more rounds on each side" in lone.why


def test_a_threshold_is_never_under_the_floor() -> None:
    """Where identical code shows 10%, a policy of 2% does not call 5%."""
    rng = np.random.default_rng(1)
    base = rounds(rng, 6, scale=0.1)
    found = verdict(row(*base), row(*rounds(rng, 6, scale=0.1)), threshold=0.02)
    assert found.ratio is not None
    assert found.threshold == pytest.approx(max(0.02, compare.FLOORS * found.ratio.floor))
    assert found.threshold > 0.05


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm(p_values: Sequence[float]) -> None:
    """Never below the p-value, never above Bonferroni's, in the same order."""
    adjusted = stats.holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, len(p_values) * p) + 1e-12
    order = np.argsort(p_values, kind="stable")
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


@pytest.mark.parametrize(("n", "m", "expected"), [(4, 4, 0), (5, 5, 2), (6, 6, 5), (8, 8, 13)])
def test_ranks_of_mann_whitney(n: int, m: int, expected: int) -> None:
    """The critical values of published tables: two-sided 5%."""
    assert stats._mann_whitney_rank(n, m, 0.95) == expected


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dtype", {"dtype": "bfloat16"}),
        ("torch", {"machine": environment(torch={"version": "2.99", "threads": 2})}),
        ("device_name", {"machine": environment(device_name="Another CPU, 2 threads")}),
    ],
)
def test_what_is_not_comparable(name: str, changes: dict[str, object]) -> None:
    """Is named with both values, and compared when one says so."""
    base, other = row(1.0, 1.0), row(1.0, 1.0, **changes)
    found = verdict(base, other)
    assert found.word == "incomparable"
    assert found.why.startswith(f"{name} differs: ")
    assert found.ratio is None
    assert verdict(base, other, across=[name]).ratio is not None
    with pytest.raises(BadInput, match="nearest: torch"):
        compare.compare([base], [other], across=["torhc"])


def test_what_is_only_on_one_side() -> None:
    """Missing, on the side that lacks it; a failure is failed, with its message."""
    msa, hilo = row(1.0, 1.0), row(1.0, 1.0, attention="hilo")
    found = compare.compare([msa], [hilo])
    assert [(v.subject, v.word, v.failed_side) for v in found] == [
        ("msa", "missing", "candidate"),
        ("hilo", "missing", "base"),
    ]
    assert [v.why for v in found] == [f"the {v.failed_side} does not have it" for v in found]
    failed = build_record(case(), [Failed("crashed", "it died")], None, environment())
    there = verdict(msa, failed)
    assert (there.word, there.failed_side) == ("failed", "candidate")
    assert there.why == "candidate: crashed: it died"
    assert verdict(failed, msa).failed_side == "base"
    assert verdict(msa, msa).failed_side is None


def test_exact_columns() -> None:
    """A change of parameters, MACs or peak memory is seen whatever the times say."""
    base = row(1.0, 1.0, facts=facts(params=10, macs=100))
    other = row(1.0, 1.0, facts=facts(params=11, macs=100))
    assert verdict(base, other).changed == {"params": (10, 11)}
    assert verdict(base, base).changed == {}
    more = row(1.0, 1.0, facts=facts(peak_memory_bytes=50000))
    assert verdict(row(1.0, 1.0), more).changed == {"peak_memory_bytes": (40000, 50000)}
    elsewhere = environment(torch={"version": "2.99", "threads": 2})
    newer = row(1.0, 1.0, facts=facts(peak_memory_bytes=50000), machine=elsewhere)
    assert verdict(row(1.0, 1.0), newer).changed == {}


@pytest.mark.parametrize(
    ("device", "base", "candidate", "is_changed"),
    [
        ("cpu", 4 * 2**30, 4 * 2**30 + 1, True),
        ("cuda", 8 * 2**20, 10 * 2**20, False),
        ("cuda", 8 * 2**20, 10 * 2**20 + 1, True),
        ("cuda", 10 * 2**20, 8 * 2**20 - 1, True),
        ("cuda", 10**9, 1.01 * 10**9, False),
        ("cuda", 10**9, 1.01 * 10**9 + 1, True),
        ("xpu", 10**9, 2 * 10**9, True),
    ],
)
def test_peak_memory_is_compared_within_what_equal_code_shows(
    device: str, base: int, candidate: int, is_changed: bool
) -> None:
    """Of a CPU to the byte; of an accelerator beyond 2 MiB or 1%, whichever is more."""
    rows = [
        row(1.0, 1.0, device=device, facts=facts(peak_memory_bytes=int(peak)))
        for peak in (base, candidate)
    ]
    assert bool(verdict(*rows).changed) is is_changed


def test_geometric_mean() -> None:
    """Of the ratios there are; none where there are none."""
    found = compare.compare(
        [row(1.0, 1.0), row(1.0, 1.0, batch_size=1)], [row(2.0, 2.0), row(0.5, 0.5, batch_size=1)]
    )
    assert compare.geometric_mean(found) == pytest.approx(1.0)
    assert compare.geometric_mean([]) is None
