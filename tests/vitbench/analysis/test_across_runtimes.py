"""Runtimes against each other: settings apart, orders beyond noise, trusted rows only."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vitbench.examples import case, environment, measured, state
from vitbench.analysis import across_runtimes
from vitbench.analysis.across_runtimes import Comparison
from vitbench.results.outcome import Failed
from vitbench.results.record import Record, build_record


def row(
    attention: str, runtime: str, latency_s: float, *, noise: float = 0.001, **changes: Any
) -> Record:
    """A measured case of two rounds, which differ by the noise."""
    rounds = [measured(*(latency_s * share,) * 20) for share in (1, 1 + noise)]
    one = case(attention=attention, params=(), runtime=runtime, **changes)
    return build_record(one, rounds, None, environment())


def busy(record: Record) -> Record:
    """The same on a busy machine."""
    return record | {"trust": "C"}


def compared(*records: Record) -> Comparison:
    """The only comparison there is."""
    (one,) = across_runtimes.comparisons(records)
    return one


def swapped(*, step: float = 1.0, noise: float = 0.001) -> list[Record]:
    """dat is faster than msa in openvino by so many ms, and slower in onnxruntime."""
    times = {("msa", "onnxruntime"): 10.0, ("dat", "onnxruntime"): 10 + step}
    times |= {("msa", "openvino"): 10.0, ("dat", "openvino"): 10 - step}
    return [row(*key, time_ms / 1e3, noise=noise) for key, time_ms in times.items()]


def test_settings_are_compared_apart() -> None:
    """Another size, dtype or batch is another comparison; one runtime alone is none; a failure is
    a row of it, and measured runtimes stand in their usual order."""
    records = [
        row("msa", "openvino", 0.01),
        row("msa", "eager", 0.01),
        row("msa", "eager", 0.01, dtype="bfloat16"),
        row("msa", "openvino", 0.01, image_height=32, grid_height=2),
        row("hilo", "compile", 0.01, batch_size=4),
    ]
    failed = Failed("error", "not exported")
    records.append(
        build_record(case(runtime="executorch", params=()), [failed], None, environment())
    )
    one = compared(*records)
    assert one.runtimes == ("eager", "openvino")
    assert [list(rows) for rows in one.subjects] == [["openvino", "eager", "executorch"]]


def test_a_dtype_without_eager_is_compared_with_eager_in_float32() -> None:
    """In int8, also where one runtime has it, or where eager was asked for it in vain; with the row
    of the same subject and size, if there is one. A dtype that eager has keeps to it, even where
    that failed."""
    records = [
        row("msa", "eager", 0.04),
        row("msa", "eager", 0.01, batch_size=4),
        row("msa", "openvino", 0.01, dtype="int8"),
        row("dat", "openvino", 0.02, dtype="int8"),
    ]
    in_vain = case(runtime="eager", params=(), dtype="int8")
    unsupported = [Failed("unsupported", "eager does not quantize")]
    one = compared(build_record(in_vain, unsupported, None, environment()), *records)
    assert one == compared(*records)
    assert one.own_row["dtype"] == "int8"
    assert (one.runtimes, one.base_dtype) == (("eager", "openvino"), "float32")
    assert [list(rows) for rows in one.subjects] == [["openvino", "eager"], ["openvino"]]
    (best,) = across_runtimes.fastest(one)
    assert best.speedup == pytest.approx(4, rel=0.01)
    half = [row("msa", name, 0.02, dtype="bfloat16") for name in ("openvino", "compile")]
    failed = case(runtime="eager", params=(), dtype="bfloat16")
    half.append(build_record(failed, [Failed("error", "no")], None, environment()))
    own = compared(records[0], *half)
    assert (own.runtimes, own.base_dtype) == (("compile", "openvino"), "")


def test_an_order_that_changes_from_eager_float32_to_int8() -> None:
    """It is a pair like any other."""
    times = {"eager": (0.04, 0.05), "openvino": (0.02, 0.01)}
    records = [
        row(attention, runtime, time_s, dtype="float32" if runtime == "eager" else "int8")
        for runtime, own in times.items()
        for attention, time_s in zip(("msa", "dat"), own, strict=True)
    ]
    (swap,) = across_runtimes.swaps(compared(*records))
    assert {swap.ahead, swap.behind} == {"eager", "openvino"}


def test_the_fastest_and_what_is_level_with_it() -> None:
    """Rows no further from the fastest than processes differ are named with it; its gain over
    eager."""
    times = {"eager": 0.02, "compile": 0.0101, "openvino": 0.01, "onnxruntime": 0.012}
    (one,) = across_runtimes.fastest(
        compared(*(row("msa", name, time_s, noise=0.02) for name, time_s in times.items()))
    )
    assert [record["runtime"] for record in one.rows] == ["openvino", "compile"]
    assert one.speedup == pytest.approx(2, rel=0.01)


def test_a_pair_whose_order_changes() -> None:
    """It is found in either order of the rows, with the runtime in which each is ahead."""
    for records in (swapped(), swapped()[::-1]):
        (swap,) = across_runtimes.swaps(compared(*records))
        ahead = {swap.ahead: swap.one, swap.behind: swap.other}
        names = {name: rows[name]["attention"] for name, rows in ahead.items()}
        assert names == {"openvino": "dat", "onnxruntime": "msa"}
        assert swap.gap == pytest.approx(1.1, rel=0.01)


def test_an_order_within_noise_does_not_change() -> None:
    """Where the intervals overlap in one of the runtimes there is no order to speak of."""
    records = swapped(step=0.1, noise=0.02)
    assert all(map(across_runtimes.is_trusted, records))
    assert across_runtimes.swaps(compared(*records)) == []


@pytest.mark.parametrize("index", range(4))
def test_a_busy_machine_has_no_order(index: int) -> None:
    """A row below B is read for neither the fastest nor an order that changes."""
    records = swapped()
    disturbed = records[index]["attention"]
    records[index] = busy(records[index])
    one = compared(*records)
    assert across_runtimes.swaps(one) == []
    (best,) = across_runtimes.fastest(one)
    assert best.rows[0]["attention"] != disturbed


def test_a_disturbed_row_is_not_trusted() -> None:
    """By its own grade, as neighbours lower it."""
    quiet = row("msa", "eager", 0.01)
    rounds = [measured(state=state(neighbour_cores=1.0))] * 2
    disturbed = build_record(case(), rounds, None, environment())
    assert across_runtimes.is_trusted(quiet)
    assert not across_runtimes.is_trusted(disturbed)


def test_what_is_gained_over_eager_in_float32() -> None:
    """In the fastest trusted runtime of each dtype; what has no base there has no gain."""
    records = [
        row("msa", "eager", 0.03),
        row("msa", "openvino", 0.02),
        row("msa", "onnxruntime", 0.015),
        busy(row("msa", "compile", 0.001)),
        row("msa", "openvino", 0.01, dtype="int8"),
        row("hilo", "openvino", 0.01),
        row("msa", "eager", 0.05, batch_size=4),
    ]
    (one,), (other,) = across_runtimes.gains(records)
    assert {dtype: best["runtime"] for dtype, best in one.best.items()} == {
        "float32": "onnxruntime",
        "int8": "openvino",
    }
    assert one.speedup("float32") == pytest.approx(2, rel=0.01)
    assert one.speedup("int8") == pytest.approx(3, rel=0.01)
    assert other.speedup("float32") == 1
    assert across_runtimes.gains(map(busy, records)) == []
