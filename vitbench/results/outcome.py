"""What measuring a case gives, and its form in JSON. Pure, no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

FailureKind = Literal["unsupported", "out_of_memory", "timeout", "crashed", "wrong_output", "error"]
FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)
MEASURED = "measured"
COUNTED = "counted"
NOT_MEASURED = "not_measured"


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


_TYPES: Mapping[str, TypeAdapter[Any]] = {
    "measured": TypeAdapter(Measured),
    "counted": TypeAdapter(Counted),
    "failed": TypeAdapter(Failed),
}


def outcome_to_dict(outcome: Outcome) -> dict[str, Any]:
    """As JSON can hold it: the fields under the name of the type."""
    return {type(outcome).__name__.lower(): dataclasses.asdict(outcome)}


def outcome_from_dict(data: Mapping[str, Any]) -> Outcome:
    """The inverse of outcome_to_dict. Raises ValueError, KeyError."""
    ((name, fields),) = data.items()
    outcome: Outcome = _TYPES[name].validate_python(fields)
    return outcome


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device reached at the start of the run.

    flops_rate  FLOP/s of a large matrix product, by dtype
    bandwidth   bytes/s of a large copy, reads and writes counted
    """

    flops_rate: Mapping[str, float]
    bandwidth: float


def to_json(value: Any) -> str:
    """One line, keys in a stable order."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
