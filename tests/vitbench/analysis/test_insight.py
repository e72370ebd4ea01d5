"""Insight on records whose truth is known: it is found where it is, and nothing in noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests import synthetic_records as synthetic
from vitbench.analysis import bound, capacity, changes, crossover, flops_gap, pareto, scaling
from vitbench.analysis.groups import SUBJECT, settings
from vitbench.analysis.insight import insights
from vitbench.cases.case import Case
from vitbench.results.record import Record

SIZES = (160, 224, 288, 384, 512)
MANY = ("msa", "hilo", "window", "sra", "xca", "pooling", "efficient", "linformer")


def names(records: tuple[Record, ...]) -> list[str]:
    """The mechanisms of rows."""
    return [str(record["attention"]) for record in records]


def test_a_planted_crossover_lies_in_its_interval() -> None:
    """In at least 95 of 100 draws, and it is found in nearly all: hilo overtakes msa at 20 x 20
    tokens, which is 320 pixels."""
    latency_s = synthetic.power_law(
        {"msa": 0.010, "hilo": 0.010 * (400 / 196) ** 0.9}, {"msa": 1.8, "hilo": 0.9}
    )
    planned = synthetic.cases(attention=("msa", "hilo"), resolution=SIZES)
    inside = 0
    for seed in range(100):
        records = synthetic.records(planned, latency_s, np.random.default_rng(seed))
        found = crossover.crossovers(records)
        assert len(found) <= 1
        for one in found:
            assert one.winner[0]["attention"] == "hilo"
            assert one.low <= one.at <= one.high
            inside += one.low <= 320 <= one.high
    assert inside >= 95


def test_curves_that_do_not_cross() -> None:
    """One that is always faster, and two that cross twice, have no crossover."""
    planned = synthetic.cases(attention=("msa", "hilo"), resolution=SIZES)

    def found(ratios: list[float]) -> int:
        ratio = dict(zip(SIZES, ratios, strict=True))
        rows = [
            synthetic.record(one, [(ratio[one.image_height] if one.attention == "hilo" else 1)] * 5)
            for one in planned
        ]
        return len(crossover.crossovers(rows))

    assert [found([2, 2, 2, 2, 2]), found([2, 0.5, 2, 0.5, 0.5])] == [0, 0]
    assert [found([2, 2, 0.5, 0.5, 0.5]), found([2, 1, 1, 1, 0.5])] == [1, 1]


def test_a_planted_front_is_found() -> None:
    """Who costs more and is slower is dominated by the one that is faster and costs no more; a row
    of the same speed is not."""
    speed = {"msa": 1.0, "hilo": 2.0, "window": 4.0, "sra": 4.0, "xca": 8.0}
    memory = {"msa": 500, "hilo": 300, "window": 100, "sra": 400, "xca": 200}
    rows = [
        synthetic.record(one, [speed[one.attention]] * 3, peak_memory_bytes=memory[one.attention])
        for one in synthetic.cases(attention=tuple(speed))
    ]
    (front,) = (
        one for one in pareto.fronts(settings(rows, SUBJECT)) if one.against == "peak_memory_bytes"
    )
    assert names(front.points) == ["msa", "hilo", "window"]
    assert {
        (str(one.record["attention"]), str(one.by["attention"])) for one in front.dominated
    } == {("sra", "hilo"), ("xca", "window")}
    level = [row | {"round_medians": "1 1 1", "latency_s": 1.0} for row in rows]
    assert all(not one.dominated for one in pareto.fronts(settings(level, SUBJECT)))


def test_published_top1_is_weighed_where_there_is_one() -> None:
    """The more accurate of two models is on the front however slow; layers have no accuracy."""
    planned = synthetic.cases(backbone=("litv2_s", "litv2_b"))
    rows = [
        synthetic.record(one, [1.0 if one.backbone == "litv2_s" else 3.0] * 3) for one in planned
    ]
    (front,) = (one for one in pareto.fronts(settings(rows, SUBJECT)) if one.against == "top1")
    assert [row["backbone"] for row in front.points] == ["litv2_s", "litv2_b"]
    layers = [synthetic.record(one, [1.0] * 3) for one in synthetic.cases(attention=MANY)]
    assert {one.against for one in pareto.fronts(settings(layers, SUBJECT))} == {
        "macs",
        "peak_memory_bytes",
    }


@pytest.mark.parametrize("exponent", [0.7, 1.0, 2.0])
def test_a_planted_exponent_lies_in_its_interval(exponent: float) -> None:
    """In about 95 of 100 draws; of two sizes there is none."""
    latency_s = synthetic.power_law({}, {"msa": exponent})
    planned = synthetic.cases(attention="msa", resolution=SIZES)
    inside = 0
    for seed in range(100):
        records = synthetic.records(planned, latency_s, np.random.default_rng(seed))
        (found,) = scaling.exponents(records)
        inside += found.within.low <= exponent <= found.within.high
    assert inside >= 90
    assert scaling.exponents(records[:2]) == []


def gap_of(latency_s: Callable[[int], float]) -> flops_gap.FlopsGap:
    """Of eight mechanisms with 1 to 8 million MACs."""
    rows = [
        synthetic.record(one, [latency_s(k)] * 3, macs=k * 10**6)
        for k, one in enumerate(synthetic.cases(attention=MANY), start=1)
    ]
    (found,) = flops_gap.gaps(settings(rows, SUBJECT))
    return found


def test_macs_that_foretell_latency_and_macs_that_do_not() -> None:
    """Correlation 1 and nobody misjudged; -1; and of one planted inversion its two subjects."""
    same = gap_of(lambda k: k / 10)
    assert same.correlation == pytest.approx(1.0)
    assert same.misjudged is None
    assert gap_of(lambda k: (9 - k) / 10).correlation == pytest.approx(-1.0)
    planted = gap_of(lambda k: 3.0 if k == 1 else k / 10)
    assert planted.misjudged is not None
    assert planted.misjudged.slow["attention"] == MANY[0]
    assert planted.misjudged.latency > 3
    assert planted.within.low <= planted.correlation < 0.8


def test_spearman_is_scipys() -> None:
    """With ties, and where subjects are drawn several times."""
    from scipy import stats

    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 5, 12).astype(float), rng.normal(0, 1, 12)
        drawn = rng.integers(0, 12, 12)
        times = np.bincount(drawn, minlength=12)[None, :].astype(float)
        (ours,) = flops_gap._correlations(a, b, times)
        assert ours == pytest.approx(stats.spearmanr(a[drawn], b[drawn]).statistic)


def test_nothing_is_found_in_noise() -> None:
    """Mechanisms that are all alike: no front rejects one, no pair crosses or is misjudged, no
    runtime is faster. In at least 95 of 100 draws."""
    planned = synthetic.cases(
        attention=MANY, resolution=(160, 224, 288), runtime=("eager", "openvino")
    )
    quiet = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        rows = [
            synthetic.record(
                one,
                synthetic.rounds(rng, 0.01),
                macs=10**6 * (1 + MANY.index(one.attention)),
                peak_memory_bytes=1000 * (1 + MANY.index(one.attention)),
            )
            for one in planned
        ]
        found = insights(rows)
        quiet += not (
            any(front.dominated for front in found.fronts)
            or found.crossovers
            or any(gap.misjudged for gap in found.gaps)
            or any(change.faster or change.slower for change in found.changes)
        )
    assert quiet >= 95


@pytest.mark.parametrize(
    ("columns", "limit"),
    [
        ({"launch_bound": True}, "launches"),
        ({"roofline_fraction": 0.1}, "overhead"),
        ({"roofline_fraction": 0.5, "flops_rate": 0.5 * synthetic.FLOPS_RATE}, "compute"),
        ({"roofline_fraction": 0.5, "flops_rate": 0.2 * synthetic.FLOPS_RATE}, "bandwidth"),
        (
            {
                "roofline_fraction": 0.4,
                "flops_rate": 0.8 * synthetic.FLOPS_RATE,
                "macs": 100,
                "macs_overlapping": 50,
            },
            "compute",
        ),
        ({"roofline_fraction": None}, None),
    ],
)
def test_what_bounds_a_case(columns: dict[str, Any], limit: str | None) -> None:
    """The nearest ceiling, launches, or overhead where no ceiling is near; else it is unknown."""
    (case,) = synthetic.cases(attention="msa")
    found = insights([synthetic.record(case, [1.0, 1.0], **columns)], synthetic.environment())
    assert [one.limit for one in found.bounds] == ([limit] if limit else [])


def test_without_ceilings_compute_and_bandwidth_are_unknown() -> None:
    """And never guessed."""
    (case,) = synthetic.cases(attention="msa")
    assert bound.bounds([synthetic.record(case, [1.0], roofline_fraction=0.5)], None) == []


def test_the_largest_that_fits() -> None:
    """By resolution and by batch; a row that ran out of memory does not fit."""
    planned = synthetic.cases(attention="msa", resolution=(224, 448), batch_size=(1, 2))
    peaks = {(224, 1): 100, (224, 2): 200, (448, 1): 400, (448, 2): 800}
    rows = [
        synthetic.record(one, [1.0], peak_memory_bytes=peaks[one.image_height, one.batch_size])
        for one in planned
    ]
    rows[-1] = synthetic.failed(planned[-1], "out_of_memory", "no room")
    found = {
        (one.axis, row["image_height"], row["batch_size"]): one.exceeds
        for one in capacity.capacities(rows, 400)
        if (row := one.fits) is not None
    }
    assert found == {
        ("resolution", 448, 1): None,
        ("resolution", 224, 2): rows[-1],
        ("batch_size", 224, 2): None,
        ("batch_size", 448, 1): rows[-1],
    }


def test_a_planted_change() -> None:
    """bfloat16 is twice as fast for all mechanisms but one, which it makes slower."""
    planned = synthetic.cases(attention=MANY, dtype=("float32", "bfloat16"))

    def latency_s(case: Case) -> float:
        factor = 2.0 if case.attention == "xca" else 0.5
        return 0.01 * (factor if case.dtype == "bfloat16" else 1)

    (found,) = changes.changes(synthetic.records(planned, latency_s, np.random.default_rng(0)))
    assert (found.axis, found.base, found.other) == ("dtype", "float32", "bfloat16")
    assert (found.faster, found.slower, found.tied) == (7, 1, 0)
    assert found.worst[1]["attention"] == "xca"
    true = math.exp((7 * math.log(2) + math.log(0.5)) / 8)
    assert found.low < true < found.high
    assert found.speedup == pytest.approx(true, rel=0.1)


def test_no_rows_have_no_insights() -> None:
    """Nothing measured, nothing known."""
    (case,) = synthetic.cases(attention="msa")
    for rows in ([], [synthetic.failed(case)]):
        found = insights(rows, {})
        assert all(getattr(found, name) == () for name in found.__slots__)
