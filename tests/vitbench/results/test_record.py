"""Record: one row per case, from what its rounds gave. Figures by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.vitbench.examples import (
    ROOT,
    backbone_case,
    case,
    ceilings,
    environment,
    facts,
    measured,
    state,
)
from vitbench.analysis import stats
from vitbench.results.columns import COLUMN_NAMES, COLUMNS, EXACT_COLUMNS
from vitbench.results.outcome import (
    FAILURE_KINDS,
    NOT_MEASURED,
    Ceilings,
    Failed,
    FailureKind,
    Outcome,
    outcome_from_dict,
    outcome_to_dict,
    to_json,
)
from vitbench.results.record import build_record

FIRST, LAST = COLUMN_NAMES.index("latency_s"), COLUMN_NAMES.index("launch_bound")
SPEED_COLUMNS = (
    *COLUMN_NAMES[FIRST : LAST + 1],
    *("flops_rate", "roofline_fraction", "energy_j_img", "trust"),
)


def test_columns_are_documented() -> None:
    """Every column has its own name and a meaning; a name that ends in a unit means it."""
    assert len(set(COLUMN_NAMES)) == len(COLUMNS)
    # The first ending that fits counts: throughput_img_s is no time.
    endings = {"_img_s": "images/s", "_s": "s", "_bytes": "bytes", "_hz": "Hz", "_w": "W"}
    for column in COLUMNS:
        assert column.meaning, column.name
        assert column.name.isidentifier()
        assert column.name.islower()
        unit = next((endings[end] for end in endings if column.name.endswith(end)), column.unit)
        assert column.unit == unit, column.name


def test_the_columns_of_committed_reports_are_there() -> None:
    """No column that a release wrote is renamed; two became one, `runtime`, and two of the host's
    time gave way to the device's own."""
    gone = {"compiled", "cuda_graph", "wall_latency_s", "host_bound"}
    for path in (ROOT / "reports").glob("*/records.csv"):
        with path.open(encoding="utf-8") as file:
            names = set(file.readline().strip().split(","))
        assert names - set(COLUMN_NAMES) <= gone, path


def test_exact_columns() -> None:
    """Counts and exact memory are deterministic; nothing that a clock or the kernel tells is."""
    assert {"case", "params", "macs", "flops", "peak_memory_bytes", "uncounted_ops"} <= set(
        EXACT_COLUMNS
    )
    assert not set(EXACT_COLUMNS) & (set(SPEED_COLUMNS) | {"peak_rss_bytes", "trust"})


def test_a_row_by_hand() -> None:
    """Two rounds of ten samples: 10 ms and 12 ms."""
    rounds = [
        measured(*[0.010] * 10, first_call_s=0.2),
        measured(*[0.012] * 10, first_call_s=0.4, facts=None, stopped_by="cap"),
    ]
    row = build_record(case(), rounds, ceilings())
    assert tuple(row) == COLUMN_NAMES
    assert row["status"] == "measured"
    assert row["message"] == ""
    assert row["latency_s"] == pytest.approx(0.011)
    assert (row["latency_low_s"], row["latency_high_s"]) == (0.010, 0.012)
    assert row["throughput_img_s"] == pytest.approx(2 / 0.011)
    assert row["throughput_low_img_s"] == pytest.approx(2 / 0.012)
    assert row["throughput_high_img_s"] == pytest.approx(2 / 0.010)
    assert row["noise"] == pytest.approx(0.001 / 0.011)
    assert row["round_spread"] == pytest.approx(0.2)
    assert (row["samples"], row["rounds"], row["stopped_by"]) == (20, 2, "cap")
    assert row["first_call_s"] == pytest.approx(0.3)
    assert row["latency_p99_s"] is None
    assert row["compile_s"] is None
    assert (row["device_latency_s"], row["launch_bound"]) == (None, None)
    assert (row["macs"], row["flops"], row["params"]) == (81920, 163840, 4224)
    assert row["macs_source"] == "closed form"
    assert row["uncounted_ops"] == "softmax:1"
    assert row["flops_rate"] == pytest.approx(163840 * 2 / 0.011)
    # 25,088 bytes at 10 GB/s take longer than 0.33 MFLOP at 100 GFLOP/s.
    assert row["roofline_fraction"] == pytest.approx(max(327680 / 100e9, 25088 / 10e9) / 0.011)
    assert row["case"] == case().id
    assert row["settings"] == "qkv_bias=true"


@pytest.mark.parametrize("kind", FAILURE_KINDS)
@pytest.mark.parametrize("before", [[], [measured()]])
def test_a_failure_is_a_row_without_speed(kind: FailureKind, before: list[Outcome]) -> None:
    """Status and message say why; no speed, not even of a round that was measured."""
    row = build_record(case(), [*before, Failed(kind, "the reason")], ceilings())
    assert tuple(row) == COLUMN_NAMES
    assert row["status"] == kind
    assert row["message"] == "the reason"
    assert [row[name] for name in SPEED_COLUMNS] == [None] * len(SPEED_COLUMNS)
    assert row["attention"] == "msa"
    assert row["macs"] == (81920 if before else None)


def test_a_case_whose_turn_did_not_come() -> None:
    """A run that was cut off has a row for it, which says so."""
    row = build_record(case(), [])
    assert tuple(row) == COLUMN_NAMES
    assert row["status"] == NOT_MEASURED
    assert "ended before" in str(row["message"])
    assert row["latency_s"] is None


def test_a_training_step_costs_three_forward_passes() -> None:
    """Its MACs are three times those of the forward pass, in the rate as well."""
    row = build_record(case(mode="forward_backward"), [measured()], ceilings())
    assert row["macs"] == 3 * 81920
    assert row["flops"] == 6 * 81920
    assert row["flops_rate"] == pytest.approx(6 * 81920 * 2 / 0.010)


def test_launch_bound() -> None:
    """Steady state over 1.2 times the device's own time."""
    for device_s, expected in ((0.0084, False), (0.0083, True)):
        row = build_record(case(), [measured(0.01, device_samples_s=(device_s,) * 20)])
        assert row["launch_bound"] is expected
        assert (row["latency_s"], row["device_latency_s"]) == (0.01, device_s)


def test_a_cold_call_is_not_called_launch_bound() -> None:
    """It is waited for alone: what its launch costs is no sign of a slow host."""
    one = measured(0.01, device_samples_s=(0.001,) * 20)
    assert build_record(case(cold=True), [one])["launch_bound"] is None
    assert build_record(case(cold=True), [one])["device_latency_s"] == 0.001


def test_compiling_anew_and_from_a_cache() -> None:
    """The first that nothing was cached for, and the median of the others, apart."""
    for rounds, expected in (
        ([(12.0, False), (2.0, True), (4.0, True)], (12.0, 3.0)),
        ([(2.0, True), (12.0, False), (14.0, False)], (12.0, 2.0)),
        ([(2.0, True), (3.0, True)], (None, 2.5)),
        ([(12.0, False), (2.0, False)], (12.0, None)),  # of an older release, which did not say
    ):
        outcomes = [measured(compile_s=s, is_cached=is_cached) for s, is_cached in rounds]
        row = build_record(case(runtime="compile"), outcomes)
        assert (row["compile_s"], row["compile_cached_s"]) == expected


def test_the_ceiling_is_that_of_the_dtype_that_computed() -> None:
    """bf16 that a CPU computes in fp32 is no faster than fp32 can be."""
    rates = Ceilings({"bfloat16": 1e9, "float32": 100e9}, 1e15)
    for computed, rate in (("float32", 100e9), ("bfloat16", 1e9), (None, 1e9)):
        known = measured(facts=facts(computed_dtype=computed))
        row = build_record(case(dtype="bfloat16"), [known], rates)
        assert row["roofline_fraction"] == pytest.approx(163840 * 2 / rate / 0.010)


CACHED = Ceilings({"float32": 100e9}, 10e9, ((2**10, 20e9), (2**14, 50e9), (2**18, 30e9)))


@pytest.mark.parametrize(
    ("nbytes", "bandwidth"),
    [(1, 50e9), (2**10, 50e9), (2**14, 50e9), (2**18 - 1, 50e9), (2**18, 30e9), (2**30, 30e9)],
)
def test_the_bandwidth_of_so_many_bytes(nbytes: int, bandwidth: float) -> None:
    """That of the next smaller copy; small ones that were slower than larger ones, as launching
    takes longer, are no ceiling; where caches were not measured, that of the large copy."""
    assert CACHED.bandwidth_at(nbytes) == bandwidth
    assert Ceilings({}, 10e9).bandwidth_at(nbytes) == 10e9
    assert Ceilings({}).bandwidth_at(nbytes) is None


def test_a_map_in_the_cache_does_not_beat_the_ceilings() -> None:
    """It is moved twice as fast as memory copies, and its trust does not fall for that."""
    known = facts(macs=1, macs_counted=1)
    in_cache_s = 25088 / 20e9
    rounds = [measured(*[in_cache_s] * 20, facts=known)] * 2
    row = build_record(case(), rounds, CACHED, environment())
    assert row["roofline_fraction"] == pytest.approx(20 / 50)
    assert row["trust"] == "A"
    old = build_record(case(), rounds, ceilings(), environment())
    assert old["roofline_fraction"] == pytest.approx(2)


def test_convolutions_that_take_fewer_products_do_not_beat_the_ceilings() -> None:
    """The time that the ceilings allow leaves out what Winograd's method may save; what an older
    release wrote without it is read as it was."""
    rates = Ceilings({"float32": 1e6}, 1e15)
    for overlapping, left in ((80000, 1920), (0, 81920), (None, 81920)):
        known = measured(facts=facts(macs_overlapping=overlapping))
        row = build_record(case(), [known], rates)
        assert row["roofline_fraction"] == pytest.approx(2 * 2 * left / 1e6 / 0.010)


def test_without_a_ceiling_there_is_no_roofline() -> None:
    """Of a dtype that was not measured, nor of a run without ceilings."""
    assert build_record(case(), [measured()])["roofline_fraction"] is None
    row = build_record(case(dtype="float16"), [measured()], ceilings())
    assert row["roofline_fraction"] is None
    assert row["flops_rate"] is not None


def test_a_backbone_has_no_layer_columns() -> None:
    """stride, grid, dim and heads are empty, not zero."""
    row = build_record(backbone_case(), [measured()])
    for name in ("stride", "grid_height", "grid_width", "dim", "num_heads"):
        assert row[name] is None
    assert row["backbone"] == "tiny"


def test_the_state_is_the_worst_of_the_rounds() -> None:
    """Highest of what disturbs, lowest of what helps; None where nothing was read."""
    rounds = [
        measured(state=state(cpu_share=0.9, neighbour_cores=0.1, sm_clock_hz=1.4e9)),
        measured(
            state=state(
                cpu_share=0.95,
                neighbour_cores=0.7,
                sm_clock_hz=1.2e9,
                throttle_reasons=["power cap"],
            )
        ),
        measured(state={"throttle_reasons": ["power cap", "power brake"]}),
    ]
    row = build_record(case(), rounds)
    assert (row["cpu_share"], row["neighbour_cores"], row["sm_clock_hz"]) == (0.9, 0.7, 1.2e9)
    assert row["throttle_reasons"] == "power brake, power cap"
    assert row["temperature_c"] is None


FLOATS = st.floats(1e-9, 1e3)
OUTCOMES = st.one_of(
    st.builds(Failed, st.sampled_from(FAILURE_KINDS), st.text()),
    st.builds(
        lambda samples, compile_s, with_facts, reading: measured(
            *samples,
            compile_s=compile_s,
            facts=facts(uncounted_ops="softmax:2") if with_facts else None,
            state={"cpu_share": reading, "throttle_reasons": ["power cap"]},
        ),
        st.lists(FLOATS, min_size=1, max_size=5),
        st.none() | FLOATS,
        st.booleans(),
        st.none() | FLOATS,
    ),
)


@given(OUTCOMES)
def test_outcomes_survive_json(outcome: Outcome) -> None:
    """What the journal holds of an outcome gives it back, sample by sample."""
    data: dict[str, Any] = json.loads(to_json(outcome_to_dict(outcome)))
    assert outcome_from_dict(data) == outcome


@given(st.text())
@example(b"\xff.py".decode(errors="surrogateescape"))
def test_json_is_one_line(message: str) -> None:
    """A journal's line ends where its newline is, whatever a message holds: also half a character,
    which UTF-8 cannot write as it is."""
    line = to_json({"message": message})
    assert len(line.encode().splitlines()) == 1
    assert json.loads(line)["message"] == message


@given(st.lists(st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=8), min_size=1, max_size=3))
def test_the_interval_holds_the_median(rounds: list[list[float]]) -> None:
    """low <= median <= high, of latency and of throughput: whiskers never point inwards."""
    row = build_record(case(), [measured(*samples) for samples in rounds])
    figures = {name: float(str(row[name])) for name in SPEED_COLUMNS[:6]}
    assert figures["latency_low_s"] <= figures["latency_s"] <= figures["latency_high_s"]
    assert figures["throughput_low_img_s"] <= figures["throughput_img_s"]
    assert figures["throughput_img_s"] <= figures["throughput_high_img_s"]
    pooled = [sample for samples in rounds for sample in samples]
    assert figures["latency_s"] == stats.median(pooled)
