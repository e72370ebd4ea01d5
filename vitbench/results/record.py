"""Record: one row of records.csv per case, from the outcomes of its rounds. Pure, no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vitbench.analysis import stats, trust
from vitbench.cases.case import Case
from vitbench.cases.row import row_of
from vitbench.devices import LAUNCH_BOUND_RATIO
from vitbench.results.columns import COLUMN_NAMES, FACT_COLUMNS
from vitbench.results.outcome import (
    COUNTED,
    MEASURED,
    NOT_MEASURED,
    Ceilings,
    Counted,
    Facts,
    Failed,
    Measured,
    Outcome,
)

Value = str | int | float | bool | None
Record = dict[str, Value]


def build_record(
    case: Case,
    outcomes: Sequence[Outcome],
    ceilings: Ceilings | None = None,
    environment: Mapping[str, Any] | None = None,
    node: str = "",
    node_spread: float | None = None,
) -> Record:
    """One row from the outcomes of a case's rounds. A failure in any round is the row's status."""
    record: Record = dict.fromkeys(COLUMN_NAMES)
    record |= row_of(case)
    record |= {"node": node, "node_spread": node_spread}
    if environment:
        record["device_name"] = environment["device_name"]
        record["torch"] = environment["torch"]["version"]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    measured = [outcome for outcome in outcomes if isinstance(outcome, Measured)]
    known = [outcome.facts for outcome in outcomes if not isinstance(outcome, Failed)]
    facts = next((facts for facts in known if facts is not None), None)
    if facts is not None:
        record |= _fact_columns(case, facts)
    if failures:
        return record | {"status": failures[0].kind, "message": failures[0].message}
    if any(isinstance(outcome, Counted) for outcome in outcomes):
        return record | {"status": COUNTED, "message": ""}
    if not measured or facts is None:
        return record | {"status": NOT_MEASURED, "message": "the run ended before its turn"}
    record |= {"status": MEASURED, "message": ""}
    record |= _time_columns(case, measured)
    record |= state_columns([outcome.state for outcome in measured])
    record |= _rate_columns(case, facts, record, ceilings)
    grade, reasons = trust.grade(record)
    return record | {"trust": grade, "trust_reasons": "; ".join(reasons)}


def subject_of(record: Mapping[str, Any]) -> str:
    """The mechanism or backbone of a row."""
    return str(record["attention"] or record["backbone"])


def _fact_columns(case: Case, facts: Facts) -> Record:
    columns = {name: facts.columns.get(name) for name in FACT_COLUMNS}
    # Up to here they are of one pass.
    of_one_pass = ("macs", "macs_counted", "macs_fvcore", "macs_head", "macs_overlapping")
    for name in of_one_pass:
        if (macs := columns[name]) is not None:
            columns[name] = macs * (3 if case.mode == "forward_backward" else 1)
    columns["flops"] = None if columns["macs"] is None else 2 * columns["macs"]
    return columns | {"compulsory_bytes": facts.compulsory_bytes}


def _time_columns(case: Case, rounds: Sequence[Measured]) -> Record:
    samples = [sample for outcome in rounds for sample in outcome.samples_s]
    of_device = [sample for outcome in rounds for sample in outcome.device_samples_s]
    latency = stats.median(samples)
    device_latency = stats.median(of_device) if of_device else None
    interval = stats.interval_over_rounds([outcome.samples_s for outcome in rounds])
    medians = [stats.median(outcome.samples_s) for outcome in rounds]
    compiles = [(o.compile_s, o.is_cached) for o in rounds if o.compile_s is not None]
    cold_s = [seconds for seconds, is_cached in compiles if not is_cached]
    cached_s = [seconds for seconds, is_cached in compiles if is_cached]
    return {
        "latency_s": latency,
        "latency_low_s": interval.low,
        "latency_high_s": interval.high,
        "throughput_img_s": case.batch_size / latency,
        "throughput_low_img_s": case.batch_size / interval.high,
        "throughput_high_img_s": case.batch_size / interval.low,
        "noise": interval.relative_half_width(latency),
        "latency_p99_s": stats.percentile(samples, 99),
        "samples": len(samples),
        "outliers": stats.outliers(samples),
        "rounds": len(rounds),
        "round_medians": " ".join(f"{value:.6g}" for value in medians),
        "round_spread": max(medians) / min(medians) - 1,
        "stopped_by": "noise" if all(r.stopped_by == "noise" for r in rounds) else "cap",
        "calls_per_sample": rounds[0].calls_per_sample,
        "first_call_s": stats.median([outcome.first_call_s for outcome in rounds]),
        "compile_s": cold_s[0] if cold_s else None,
        "compile_cached_s": stats.median(cached_s) if cached_s else None,
        "device_latency_s": device_latency,
        "launch_bound": (
            # A cold call is waited for alone, so what launching it costs is never hidden.
            None
            if device_latency is None or case.cold
            else latency > LAUNCH_BOUND_RATIO * device_latency
        ),
    }


def _rate_columns(
    case: Case, facts: Facts, record: Mapping[str, Any], ceilings: Ceilings | None
) -> Record:
    if record["flops"] is None:
        return {}
    flops, latency_s = record["flops"] * case.batch_size, record["latency_s"]
    columns: Record = {"flops_rate": flops / latency_s}
    dtype = facts.columns.get("computed_dtype") or case.dtype
    if ceilings is None or dtype not in ceilings.flops_rate:
        return columns
    # Of these a convolution may take fewer products than are counted.
    overlapping = 2 * (record["macs_overlapping"] or 0) * case.batch_size
    flops_s = max(0, flops - overlapping) / ceilings.flops_rate[dtype]
    bandwidth = ceilings.bandwidth_at(facts.compulsory_bytes)
    bytes_s = 0.0 if bandwidth is None else facts.compulsory_bytes / bandwidth
    allowed_s = max(flops_s, bytes_s)
    return columns | {"roofline_fraction": allowed_s / latency_s}


def state_columns(states: Sequence[Mapping[str, Any]]) -> Record:
    """The machine's state over the rounds: the worst of each reading."""

    def seen(name: str) -> list[Any]:
        return [state[name] for state in states if state.get(name) is not None]

    worst = {
        "cpu_share": min,
        "neighbour_cores": max,
        "contended_cores": max,
        "steal_share": max,
        "cgroup_throttled_s": max,
        "involuntary_switches": max,
        "sm_clock_hz": min,
        "sm_clock_spread": max,
        "temperature_c": max,
        "power_w": stats.median,
        "throttled_share": max,
        "power_capped_share": max,
        "retries": sum,
        "gpu_idle_utilisation": max,
        "gpu_processes": max,
        "gpu_memory_drift_bytes": max,
    }
    columns: Record = {
        name: pick(seen(name)) if seen(name) else None  # type: ignore[operator] # each takes a list
        for name, pick in worst.items()
    }
    reasons = sorted({reason for reasons in seen("throttle_reasons") for reason in reasons})
    changes = sorted({text for text in seen("settings_changed") if text})
    return columns | {
        "throttle_reasons": ", ".join(reasons),
        "settings_changed": "; ".join(changes),
    }
