"""Which implementation to use: the fastest; the leaner of two that noise does not tell apart."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vitbench.examples import case, environment, facts, measured
from vitbench.render import recommendation
from vitbench.results.record import Record, build_record


def row(latency_s: float, *, peak: int = 1000, **changes: Any) -> Record:
    """A measured case with a narrow interval."""
    samples = [latency_s * (1 + 0.001 * (k % 3)) for k in range(30)]
    first = measured(*samples, facts=facts(peak_memory_bytes=peak))
    second = measured(*(1.002 * sample for sample in samples))
    return build_record(case(**changes), [first, second], None, environment())


def test_the_fastest_is_named_with_what_it_gains() -> None:
    (line,) = recommendation.rows([row(0.02, impl="eager"), row(0.01, impl="fused")])
    assert line[0] == "msa"
    assert line[4] == "fused"
    assert line[6] == "2.00"
    assert line[-1] == "eager takes 2.00 times as long"


def test_of_two_alike_the_leaner() -> None:
    """Where the intervals overlap memory decides."""
    rows = [row(0.01, impl="eager", peak=2000), row(0.010001, impl="fused", peak=1000)]
    (line,) = recommendation.rows(rows)
    assert line[4] == "fused"
    assert line[-1] == "as fast as eager within noise, and takes no more memory"


@pytest.mark.parametrize(
    "columns",
    [
        {"memory_source": "resident", "peak_memory_bytes": 10},
        {"memory_source": "allocator", "peak_memory_bytes": None},
    ],
)
def test_memory_that_does_not_compare_decides_nothing(columns: Record) -> None:
    """A resident set beside an allocator's peak, or a peak that was not read: the fastest wins."""
    fastest = row(0.01, peak=2000) | {"memory_source": "allocator"}
    other = row(0.010001, runtime="openvino") | columns
    for rows in ([fastest, other], [other, fastest]):
        (line,) = recommendation.rows(rows)
        assert line[4] == "fused"
        assert line[-1] == (
            "as fast as fused + openvino within noise; their memory does not compare"
        )


def test_trusted_rows_are_read_where_there_are_two() -> None:
    """However fast a row of a disturbed machine is; where there is none else, it says so."""
    rows = [row(0.02), row(0.01, impl="eager"), row(0.001, runtime="openvino") | {"trust": "C"}]
    (line,) = recommendation.rows(rows)
    assert line[4] == "eager"
    (line,) = recommendation.rows([rows[0], rows[2]])
    assert line[4] == "fused + openvino"
    assert line[-1].endswith("; of trust C: measure again on a quiet machine")


def test_a_launch_bound_answer_says_what_would_gain() -> None:
    """The share of the time in which the device computes."""
    bound = build_record(
        case(), [measured(*(0.01,) * 30, device_samples_s=(0.0025,) * 30)], None, environment()
    )
    (line,) = recommendation.rows([row(0.02, impl="eager"), bound])
    assert "launch-bound: the device computes 25% of the time" in line[-1]


def test_compiled_is_an_answer_too() -> None:
    rows = [row(0.02), row(0.01, runtime="compile"), row(0.03, impl="eager")]
    (line,) = recommendation.rows(rows)
    assert line[4] == "fused + compile"
    assert "eager takes 3.00 times as long" in line[-1]


def test_questions_are_apart() -> None:
    """Another dtype or batch is another question; what was measured once has no answer."""
    rows = [
        row(0.02, impl="eager"),
        row(0.01),
        row(0.03, impl="eager", batch_size=4),
        row(0.01, batch_size=4),
        row(0.01, dtype="bfloat16"),
    ]
    found = recommendation.rows(rows)
    assert [line[3] for line in found] == ["2", "4"]
    table = recommendation.table(rows)
    assert table is not None
    assert table.row_count == 2
    assert recommendation.table(rows[-1:]) is None


def test_a_subject_is_named_with_the_settings_that_differ() -> None:
    rows = [
        row(latency_s, impl=impl, attention="hilo", params=(("alpha", alpha), ("window_size", 2)))
        for alpha in (0.5, 0.9)
        for impl, latency_s in (("eager", 0.02), ("fused", 0.01))
    ]
    found = recommendation.rows(rows)
    assert [line[0] for line in found] == ["hilo alpha=0.5", "hilo alpha=0.9"]
