"""Time: warm-up, sampling and the stopping rule, on a device's clock."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from vitbench.analysis import stats
from vitbench.devices import Call, Clock, Watch

MAX_RETRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingRule:
    """When to stop warming up and sampling. Times in seconds, per case and round.

    warmup_calls, warmup_s     at least so many calls and so long
    warmup_agree, warmup_cap_s then until two successive blocks agree within this share, at most
    sample_s                   calls are repeated inside one sample until it lasts this long, by the
                               device's own time where that can be read
    min_samples, min_s         at least so many samples and so long
    target_noise               then until the noise (relative half-width of the 95% interval of
                               the median) is below this
    cap_s                      no longer than this, whatever the noise; at least cap_samples
    energy_s                   how long energy is read, in the first round only; 0: it is not
    """

    warmup_calls: int = 5
    warmup_s: float = 0.2
    warmup_agree: float = 0.02
    warmup_cap_s: float = 5.0
    sample_s: float = 0.010
    min_samples: int = 10
    min_s: float = 0.3
    target_noise: float = 0.01
    cap_s: float = 5.0
    cap_samples: int = 3
    energy_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("warmup_calls", "min_samples", "cap_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        times = ("warmup_s", "warmup_cap_s", "sample_s", "min_s", "cap_s", "energy_s")
        for name in (*times, "warmup_agree"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        if not 0 < self.target_noise < math.inf:
            raise ValueError(f"target_noise must be positive, got {self.target_noise}")


@dataclass(slots=True)
class Timing:
    """What was measured, and how it ended. Seconds of one call.

    samples           of the steady state, every one, in the order taken
    device_samples    the device's own time, beside each sample that has one
    calls_per_sample  calls averaged in one sample
    first_call_s      the very first call: lazy initialisation, autotuning, compilation
    warmup_calls, warmup_s  what the warm-up took
    stopped_by        "noise": the target was reached; "cap": the time was up
    chunks            what the watch read, once for each chunk of samples
    retries           chunks taken again because the reading was suspect
    """

    samples: list[float]
    device_samples: list[float]
    calls_per_sample: int
    first_call_s: float
    warmup_calls: int
    warmup_s: float
    stopped_by: str
    chunks: list[dict[str, Any]] = field(default_factory=list)
    retries: int = 0


def measure(
    call: Call,
    clock: Clock,
    rule: TimingRule,
    *,
    watch: Watch | None = None,
    max_calls: int | None = None,
) -> Timing:
    """Warms up, samples until the rule says stop, and keeps every sample.

    The watch reads the state of the device between chunks of samples, outside their time. A chunk
    whose reading is suspect is taken again after a pause and a warm-up, up to MAX_RETRIES times a
    case; what is suspect after that is kept, since the reading says so. `max_calls` limits the
    calls of one sample (1 where every call must be cold).
    """
    timing = warmed(call, clock, rule, max_calls=max_calls)
    if watch is not None:
        watch.restart()
    start = clock.now()
    while True:
        chunk_size = max(rule.min_samples - len(timing.samples), len(timing.samples) // 4, 1)
        chunk_start, device_start = len(timing.samples), len(timing.device_samples)
        for _ in range(chunk_size):
            _take_sample(call, clock, timing)
            spent = clock.now() - start
            if spent >= rule.cap_s and len(timing.samples) >= rule.cap_samples:
                break
        if watch is not None and watch.read is not None:
            state = watch.read()
            if watch.is_suspect(state) and timing.retries < MAX_RETRIES and spent < rule.cap_s:
                timing.retries += 1
                del timing.samples[chunk_start:], timing.device_samples[device_start:]
                pause = clock.now()
                watch.cool_down()
                _warm_up(call, clock, rule)  # an idle device's clock falls
                watch.restart()
                start += clock.now() - pause
                continue
            timing.chunks.append(state)
        enough = len(timing.samples) >= rule.min_samples and spent >= rule.min_s
        if enough and stats.noise(timing.samples) <= rule.target_noise:
            timing.stopped_by = "noise"
            return timing
        if spent >= rule.cap_s and len(timing.samples) >= rule.cap_samples:
            return timing


def warmed(call: Call, clock: Clock, rule: TimingRule, *, max_calls: int | None = None) -> Timing:
    """Warmed up, no sample taken yet."""
    first_call_s = clock.latency_s(call, 1)
    per_call_s, warm_calls, warm_s = _warm_up(call, clock, rule)
    calls = _calls_in(rule.sample_s, per_call_s, max_calls)
    device_s = clock.device_s(call, calls)
    if device_s is not None:  # it is what must last: the host may take many times as long
        calls = _calls_in(rule.sample_s, min(device_s, per_call_s), max_calls)
    return Timing([], [], calls, first_call_s, warm_calls, warm_s, "cap")


def _calls_in(sample_s: float, call_s: float, max_calls: int | None) -> int:
    """How many calls make a sample that long, at most `max_calls`."""
    calls = max(1, round(sample_s / call_s + 0.5)) if call_s > 0 else 1
    return calls if max_calls is None else min(calls, max_calls)


def turn(call: Call, clock: Clock, timing: Timing, seconds: float) -> list[float]:
    """Samples for so long, at least one; they are kept in `timing` too.

    A first call is thrown away: another process ran meanwhile, and threads and caches are cold.
    """
    clock.read(call, 1)
    begun, start = len(timing.samples), clock.now()
    while True:
        _take_sample(call, clock, timing)
        if clock.now() - start >= seconds:
            return timing.samples[begun:]


def _take_sample(call: Call, clock: Clock, timing: Timing) -> None:
    reading = clock.read(call, timing.calls_per_sample)
    timing.samples.append(reading.latency_s)
    if reading.device_s is not None:
        timing.device_samples.append(reading.device_s)


def _warm_up(call: Call, clock: Clock, rule: TimingRule) -> tuple[float, int, float]:
    """Blocks of calls until two agree. Returns seconds a call, calls and seconds spent."""
    start = clock.now()
    block, done, previous = 1, 0, None
    while True:
        per_call_s = clock.latency_s(call, block)
        done += block
        spent = clock.now() - start
        warm = done >= rule.warmup_calls and spent >= rule.warmup_s
        agree = previous is not None and abs(per_call_s - previous) <= rule.warmup_agree * previous
        if (warm and agree) or spent >= rule.warmup_cap_s:
            return per_call_s, done, spent
        previous = per_call_s
        if per_call_s * block < rule.warmup_s / 4:
            block *= 2
