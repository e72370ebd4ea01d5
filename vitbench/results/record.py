"""Outcomes of single measurements, and Record: one CSV row per case. Pure, no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from vitbench.analysis import stats, trust
from vitbench.cases.case import Case
from vitbench.cases.scalars import parse_scalar

FailureKind = Literal["unsupported", "out_of_memory", "timeout", "crashed", "wrong_output", "error"]
FAILURE_KINDS: tuple[FailureKind, ...] = (
    "unsupported",
    "out_of_memory",
    "timeout",
    "crashed",
    "wrong_output",
    "error",
)
MEASURED = "measured"
COUNTED = "counted"
NOT_MEASURED = "not_measured"
HOST_BOUND_RATIO = 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one look at a case tells: counts, memory, correctness. Taken in the first round.

    compulsory_bytes  weights, input and output, once each: what any implementation must move
    operator_calls    operators that one call dispatches; None for a compiled call
    sdpa_kernels      how often scaled_dot_product_attention ran on which kernel
    graph_breaks      of torch.compile; None where it was not compiled
    fallback          what the fused implementation does in place of its kernels here, and why: the
                      equations, or all of it in float32; empty: neither
    macs_head         of one image, in the head that a backbone carries; None where it carries none
    macs_formula      of one image, by the formula that a backbone's authors publish figures by
    """

    params: int
    macs: int
    macs_fvcore: int
    macs_closed_form: int | None
    uncounted_ops: Mapping[str, int]
    wasted_token_fraction: float
    compulsory_bytes: int
    peak_memory_bytes: int
    activation_memory_bytes: int
    reserved_memory_bytes: int | None
    peak_rss_bytes: int | None
    checked_against: str
    error_rms: float
    error_worst: float
    energy_j_img: float | None = None
    operator_calls: int | None = None
    sdpa_kernels: Mapping[str, int] = field(default_factory=dict)
    graph_breaks: int | None = None
    fallback: str = ""
    macs_head: int | None = None
    macs_formula: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One round's timing of one case. Seconds of one call, every sample, in order taken.

    state  the machine while the samples were taken (instruments.host, instruments.gpu)
    """

    samples_s: tuple[float, ...]
    wall_samples_s: tuple[float, ...]
    calls_per_sample: int
    first_call_s: float
    compile_s: float | None
    warmup_calls: int
    warmup_s: float
    stopped_by: str
    state: Mapping[str, Any] = field(default_factory=dict)
    facts: Facts | None = None
    spent_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Failed:
    """Why there is no measurement: data, not an exception."""

    kind: FailureKind
    message: str


@dataclass(frozen=True, slots=True)
class Counted:
    """One look at a case whose time was not asked for: checked, counted, its memory measured."""

    facts: Facts


Outcome = Measured | Counted | Failed


def outcome_to_dict(outcome: Outcome) -> dict[str, Any]:
    """As JSON can hold it."""
    if isinstance(outcome, Failed):
        return {"failed": dataclasses.asdict(outcome)}
    if isinstance(outcome, Counted):
        return {"counted": dataclasses.asdict(outcome)}
    return {"measured": dataclasses.asdict(outcome)}


def outcome_from_dict(data: Mapping[str, Any]) -> Outcome:
    """The inverse of outcome_to_dict."""
    if "failed" in data:
        return Failed(**data["failed"])
    if "counted" in data:
        return Counted(Facts(**data["counted"]["facts"]))
    fields = dict(data["measured"])
    if fields["facts"] is not None:
        fields["facts"] = Facts(**fields["facts"])
    fields["samples_s"] = tuple(fields["samples_s"])
    fields["wall_samples_s"] = tuple(fields["wall_samples_s"])
    return Measured(**fields)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of records.csv.

    exact  deterministic: two runs of one plan on one machine give the same bytes
    """

    name: str
    unit: str
    meaning: str
    exact: bool = False


def _case_column(name: str, unit: str, meaning: str) -> Column:
    return Column(name, unit, meaning, exact=True)


COLUMNS: tuple[Column, ...] = (
    _case_column("case", "", "stable id of the case: a hash of the columns up to `settings`"),
    _case_column("attention", "", "mechanism, the name of its file; empty for a backbone"),
    _case_column("backbone", "", "whole model; empty for an attention layer"),
    _case_column("impl", "", "`eager`: the paper's equations op by op; `fused`: fastest kernels"),
    _case_column("runtime", "", "`eager`, `compile` (torch.compile) or `cuda-graph` (replayed)"),
    _case_column("cold", "", "caches flushed before each call"),
    _case_column("mode", "", "`forward`, or `forward_backward`: one training step of the layer"),
    _case_column("device", "", "`cpu`, `cuda` or `cuda:1`"),
    _case_column("dtype", "", "of weights and inputs"),
    _case_column("batch_size", "images", "images in one call"),
    _case_column("image_height", "pixels", "height of the image that the feature map belongs to"),
    _case_column("image_width", "pixels", "width of that image"),
    _case_column("stride", "pixels", "side of the image patch behind one token"),
    _case_column("grid_height", "tokens", "height of the feature map"),
    _case_column("grid_width", "tokens", "width of the feature map"),
    _case_column("dim", "channels", "channels of the feature map"),
    _case_column("num_heads", "heads", "attention heads"),
    _case_column("settings", "", "hyper-parameters of the mechanism"),
    Column(
        "status",
        "",
        "`measured`, `counted` (all but the time), or why not: " + ", ".join(FAILURE_KINDS),
    ),
    Column("message", "", "the reason for a failure, in words"),
    Column("latency_s", "s", "time of one call on the whole batch: median over all samples"),
    Column("latency_low_s", "s", "lower end of its 95% interval"),
    Column("latency_high_s", "s", "upper end of its 95% interval"),
    Column("throughput_img_s", "images/s", "batch_size / latency_s"),
    Column("throughput_low_img_s", "images/s", "batch_size / latency_high_s"),
    Column("throughput_high_img_s", "images/s", "batch_size / latency_low_s"),
    Column("noise", "share", "relative half-width of the 95% interval of the median"),
    Column("latency_p99_s", "s", "99th percentile; empty below 100 samples"),
    Column("samples", "", "samples taken, over all rounds"),
    Column("outliers", "", "samples beyond Tukey's fences; none is dropped"),
    Column("rounds", "", "worker processes that measured the case"),
    Column("round_spread", "share", "highest over lowest median of a round, less 1"),
    Column("round_medians", "", "latency of each round in seconds, which comparisons use"),
    Column("stopped_by", "", "`noise`: the target was reached in every round; `cap`: time was up"),
    Column("calls_per_sample", "calls", "calls averaged in one sample (first round)"),
    Column("first_call_s", "s", "the first call of a process: median over rounds"),
    Column("compile_s", "s", "torch.compile and its first call: median over rounds"),
    Column("wall_latency_s", "s", "host time until the result is there: median over all samples"),
    Column("host_bound", "", f"wall_latency_s is over {HOST_BOUND_RATIO} x latency_s"),
    Column("macs", "MACs", "multiply-accumulates of one image", exact=True),
    Column("flops", "FLOPs", "2 x macs", exact=True),
    Column("macs_source", "", "`closed form` of the mechanism, or `fvcore`", exact=True),
    Column(
        "macs_head",
        "MACs",
        "of `macs`, what a detection or segmentation head takes, its feature pyramid included",
        exact=True,
    ),
    Column(
        "macs_formula",
        "MACs",
        "of one image by the formula that a backbone's authors publish by, where we have it",
        exact=True,
    ),
    Column("macs_fvcore", "MACs", "what fvcore counts; the same, or the trust falls", exact=True),
    Column(
        "uncounted_ops",
        "",
        "operators that count nothing by convention, with how often",
        exact=True,
    ),
    Column("params", "", "trainable parameters", exact=True),
    Column(
        "operator_calls",
        "calls",
        "operators that one call dispatches, views included; empty for a compiled call",
    ),
    Column(
        "sdpa_kernels",
        "",
        "kernels that scaled_dot_product_attention ran on, with how often; `math` is not fused",
    ),
    Column("graph_breaks", "", "of torch.compile; empty where it was not compiled"),
    Column(
        "fallback",
        "",
        "what the fused implementation does in place of its kernels here, and why: the equations, "
        "or all of it in float32; empty: neither",
    ),
    Column("wasted_token_fraction", "share", "padded tokens over computed tokens", exact=True),
    Column(
        "peak_memory_bytes",
        "bytes",
        "highest allocator level during one call, weights and inputs included; on the CPU exact",
        exact=True,
    ),
    Column("activation_memory_bytes", "bytes", "the same, less weights and inputs", exact=True),
    Column("reserved_memory_bytes", "bytes", "CUDA allocator's reserve"),
    Column("peak_rss_bytes", "bytes", "the process's highest resident set (VmHWM) on the CPU"),
    Column("energy_j_img", "J", "energy per image (CUDA, where NVML has the counter)"),
    Column("flops_rate", "FLOP/s", "flops x batch_size / latency_s"),
    Column("roofline_fraction", "share", "time that the measured ceilings allow / latency_s"),
    Column("checked_against", "", "reference of the output check"),
    Column("error_rms", "share", "rms difference from that reference, relative to its rms"),
    Column("error_worst", "share", "largest difference, relative to its rms"),
    Column("cpu_share", "share", "CPU time over wall time and threads, while sampling"),
    Column("neighbour_cores", "cores", "busy cores of other processes, while sampling"),
    Column("steal_share", "share", "time the hypervisor gave to others, while sampling"),
    Column("cgroup_throttled_s", "s", "time the CPU quota stopped us, while sampling"),
    Column("involuntary_switches", "1/s", "involuntary context switches, while sampling"),
    Column("sm_clock_hz", "Hz", "lowest SM clock seen between samples"),
    Column("temperature_c", "°C", "highest GPU temperature seen"),
    Column("power_w", "W", "median GPU power seen"),
    Column("throttle_reasons", "", "clock limits seen that make the figure suspect"),
    Column("retries", "", "chunks of samples taken again under a lowered clock, over all rounds"),
    Column("gpu_idle_utilisation", "share", "GPU utilisation before our first call: others' work"),
    Column("gpu_memory_drift_bytes", "bytes", "GPU memory that others took or left meanwhile"),
    Column("device_name", "", "the device's name, and a CPU's threads", exact=True),
    Column("torch", "", "version of torch", exact=True),
    Column("trust", "", "A to D, from noise, rounds and the state of the machine"),
    Column("trust_reasons", "", "why it is not A"),
)

COLUMN_NAMES = tuple(column.name for column in COLUMNS)
EXACT_COLUMNS = tuple(column.name for column in COLUMNS if column.exact)

Value = str | int | float | bool | None
Record = dict[str, Value]


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device reached at the start of the run.

    flops_rate  FLOP/s of a large matrix product, by dtype
    bandwidth   bytes/s of a large copy, reads and writes counted
    """

    flops_rate: Mapping[str, float]
    bandwidth: float


def build_record(
    case: Case,
    outcomes: Sequence[Outcome],
    ceilings: Ceilings | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Record:
    """One row from the outcomes of a case's rounds. A failure in any round is the row's status."""
    record: Record = dict.fromkeys(COLUMN_NAMES)
    record |= case_columns(case)
    if environment:
        record["device_name"] = environment["device_name"]
        record["torch"] = environment["torch"]["version"]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failed)]
    measured = [outcome for outcome in outcomes if isinstance(outcome, Measured)]
    known = [outcome.facts for outcome in outcomes if not isinstance(outcome, Failed)]
    facts = next((one for one in known if one is not None), None)
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
    record |= _rate_columns(case, facts, float(str(record["latency_s"])), ceilings)
    grade, reasons = trust.grade(record)
    return record | {"trust": grade, "trust_reasons": "; ".join(reasons)}


def case_columns(case: Case) -> Record:
    """The columns that say what was measured."""
    fields = case.to_dict()
    del fields["params"]
    for name in ("stride", "grid_height", "grid_width", "dim", "num_heads"):
        fields[name] = fields[name] or None  # a backbone has none of its own
    return {"case": case.id, **fields, "settings": case.settings}


def case_of(record: Mapping[str, Any]) -> Case:
    """The case of a row: the inverse of `case_columns`. Raises ValueError where the row's own id
    says that it is another."""
    words = [word.partition("=") for word in str(record["settings"] or "").split()]
    fields: dict[str, Any] = {
        name: record[name] for name in Case.__dataclass_fields__ if name != "params"
    }
    counts = ("stride", "grid_height", "grid_width", "dim", "num_heads")
    fields |= {name: int(record[name] or 0) for name in counts}
    fields |= {name: int(record[name]) for name in ("batch_size", "image_height", "image_width")}
    fields["cold"] = bool(record["cold"])
    fields |= {name: str(record[name] or "") for name in ("attention", "backbone")}
    params = tuple(sorted((name, parse_scalar(value)) for name, _, value in words))
    case = Case(**fields, params=params)
    if case.id != record["case"]:
        raise ValueError(f"its columns are of another case than its id, {record['case']}")
    return case


def _fact_columns(case: Case, facts: Facts) -> Record:
    steps = 3 if case.mode == "forward_backward" else 1
    macs = facts.macs * steps
    return {
        "macs": macs,
        "flops": 2 * macs,
        "macs_source": "fvcore" if facts.macs_closed_form is None else "closed form",
        "macs_fvcore": facts.macs_fvcore * steps,
        "macs_head": None if facts.macs_head is None else facts.macs_head * steps,
        "macs_formula": facts.macs_formula,
        "uncounted_ops": " ".join(f"{name}:{n}" for name, n in facts.uncounted_ops.items()),
        "params": facts.params,
        "operator_calls": facts.operator_calls,
        "sdpa_kernels": " ".join(f"{name}:{n}" for name, n in facts.sdpa_kernels.items()),
        "graph_breaks": facts.graph_breaks,
        "fallback": facts.fallback,
        "wasted_token_fraction": facts.wasted_token_fraction,
        "peak_memory_bytes": facts.peak_memory_bytes,
        "activation_memory_bytes": facts.activation_memory_bytes,
        "reserved_memory_bytes": facts.reserved_memory_bytes,
        "peak_rss_bytes": facts.peak_rss_bytes,
        "energy_j_img": facts.energy_j_img,
        "checked_against": facts.checked_against,
        "error_rms": facts.error_rms,
        "error_worst": facts.error_worst,
    }


def _time_columns(case: Case, rounds: Sequence[Measured]) -> Record:
    samples = [sample for outcome in rounds for sample in outcome.samples_s]
    walls = [sample for outcome in rounds for sample in outcome.wall_samples_s]
    latency, wall = stats.median(samples), stats.median(walls)
    interval = stats.interval_over_rounds([outcome.samples_s for outcome in rounds])
    medians = [stats.median(outcome.samples_s) for outcome in rounds]
    compiles = [outcome.compile_s for outcome in rounds if outcome.compile_s is not None]
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
        "compile_s": stats.median(compiles) if compiles else None,
        "wall_latency_s": wall,
        "host_bound": wall > HOST_BOUND_RATIO * latency,
    }


def _rate_columns(case: Case, facts: Facts, latency_s: float, ceilings: Ceilings | None) -> Record:
    steps = 3 if case.mode == "forward_backward" else 1
    flops = 2 * facts.macs * steps * case.batch_size
    columns: Record = {"flops_rate": flops / latency_s}
    if ceilings is None or case.dtype not in ceilings.flops_rate:
        return columns
    allowed_s = max(
        flops / ceilings.flops_rate[case.dtype], facts.compulsory_bytes / ceilings.bandwidth
    )
    return columns | {"roofline_fraction": allowed_s / latency_s}


def state_columns(states: Sequence[Mapping[str, Any]]) -> Record:
    """The machine's state over the rounds: the worst of each reading."""

    def seen(name: str) -> list[Any]:
        return [state[name] for state in states if state.get(name) is not None]

    worst = {
        "cpu_share": min,
        "neighbour_cores": max,
        "steal_share": max,
        "cgroup_throttled_s": max,
        "involuntary_switches": max,
        "sm_clock_hz": min,
        "temperature_c": max,
        "power_w": stats.median,
        "retries": sum,
        "gpu_idle_utilisation": max,
        "gpu_memory_drift_bytes": max,
    }
    columns: Record = {
        name: pick(seen(name)) if seen(name) else None  # type: ignore[operator] # each takes a list
        for name, pick in worst.items()
    }
    reasons = sorted({reason for words in seen("throttle_reasons") for reason in words})
    return columns | {"throttle_reasons": ", ".join(reasons)}


def to_json(value: Any) -> str:
    """One line, keys in a stable order."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
