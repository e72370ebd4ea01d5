"""What measuring a case gives, and its form in JSON. Pure, no torch."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import TypeAdapter

FailureKind = Literal["unsupported", "out_of_memory", "timeout", "crashed", "wrong_output", "error"]
FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)
MEASURED = "measured"
COUNTED = "counted"
NOT_MEASURED = "not_measured"
UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Facts:
    """What one look at a case tells: counts, memory, correctness. Taken in the first round.

    compulsory_bytes  weights, input and output, once each: what any implementation must move
    columns           what the instruments read; MACs are of one forward pass
    """

    compulsory_bytes: int
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One round's timing of one case. Seconds of one call, every sample, in order taken.

    samples_s         of the steady state
    device_samples_s  the device's own time, where it was read
    compile_s         None where nothing is compiled
    is_cached         that was read from a cache of an earlier process
    state  the machine while the samples were taken (instruments.host, instruments.gpu)
    """

    samples_s: tuple[float, ...]
    calls_per_sample: int
    first_call_s: float
    compile_s: float | None
    warmup_calls: int
    warmup_s: float
    stopped_by: str
    device_samples_s: tuple[float, ...] = ()
    is_cached: bool = False
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
    if fields.get("facts") is not None:
        fields = {**fields, "facts": _facts(fields["facts"])}
    if "wall_samples_s" in fields:  # an older release, which had the steady state there
        fields = {**fields, "samples_s": fields["wall_samples_s"]}
        del fields["wall_samples_s"]
    outcome: Outcome = _TYPES[name].validate_python(fields)
    if isinstance(outcome, Measured):
        _check_samples(outcome)
    return outcome


def _check_samples(outcome: Measured) -> None:
    if not outcome.samples_s:
        raise ValueError("expected at least one of samples_s")
    times_s = (*outcome.samples_s, *outcome.device_samples_s)
    if wrong := [time_s for time_s in times_s if not 0 < time_s < math.inf]:
        raise ValueError(f"expected samples of more than 0 s, got {wrong[0]}")


def _facts(data: Mapping[str, Any]) -> Facts:
    """Older releases wrote a field for each fact, some of them in another form."""
    if "columns" in data:
        columns = dict(data["columns"])
        columns.setdefault("macs_counted", columns.get("macs_fvcore"))
        return Facts(data["compulsory_bytes"], columns)
    columns = dict(data)
    compulsory_bytes = columns.pop("compulsory_bytes")
    closed_form = columns.pop("macs_closed_form")
    columns["macs_counted"] = columns.get("macs_fvcore")
    columns["macs_source"] = "fvcore" if closed_form is None else "closed form"
    for name in ("uncounted_ops", "sdpa_kernels"):
        counts = columns.get(name, {})
        columns[name] = " ".join(f"{operator}:{count}" for operator, count in counts.items())
    return Facts(compulsory_bytes, columns)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the device reached at the start of the run; what could not be measured is not there.

    flops_rate  FLOP/s of a large matrix product, by dtype
    bandwidth   bytes/s of a large copy, reads and writes counted
    cached      the same of copies that may fit a cache: bytes read and written, bytes/s
    """

    flops_rate: Mapping[str, float]
    bandwidth: float | None = None
    cached: tuple[tuple[int, float], ...] = ()

    def bandwidth_at(self, nbytes: int) -> float | None:
        """bytes/s at which so many bytes may at most be moved: as in the next smaller copy, or in a
        larger one that was faster, since the smallest take as long as they are launched."""
        smaller = [size for size, _ in self.cached if size <= nbytes]
        rates = [rate for size, rate in self.cached if size >= max(smaller, default=0)]
        rates += [self.bandwidth] if self.bandwidth is not None else []
        return max(rates, default=None)


_CEILINGS = TypeAdapter(Ceilings)


def ceilings_from_dict(data: Mapping[str, Any]) -> Ceilings:
    """From its form in JSON; older releases had no `cached`. Raises ValueError."""
    return _CEILINGS.validate_python(data)


def to_json(value: Any) -> str:
    """One line, keys in a stable order."""
    return json.dumps(value, sort_keys=True, allow_nan=False)
