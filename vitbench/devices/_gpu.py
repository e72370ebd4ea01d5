"""The state of a GPU: what others do there, how its clock is held while we sample, its energy."""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import psutil

from vitbench.devices import LAUNCH_BOUND_RATIO, Call, Clock, Energy, Reading, Unreadable, Watch
from vitbench.devices._queue import Event, Queue
from vitbench.errors import first_line

if TYPE_CHECKING:
    import torch

    from vitbench.devices._nvml import GpuState

# NVML's utilisation is that of its last period, which takes up to a second.
_PERIOD_S = 1.2
_QUIET = 0.02
_DRIFT_BYTES = 2**26  # others' memory, that may come or go without a doubt
# How long a GPU that lowered its clock is left alone at most, and how often it is looked at.
_COOL_S = 3.0
_LOOK_S = 0.1
# Of the time, by which heat may hold the clock down before samples are taken again.
_THERMAL_SHARE = 0.01
# Energy: warm-up, the least reading, the least changes of its counter, and a batch of calls, in
# which the counter is read once; a reading ends without a result after so many times its length.
_WARMUP_S = 0.5
_LEAST_S = 2.0
_LEAST_TICKS = 20
_BATCH_S = 0.005
_PATIENCE = 5.0


class Gpu(Protocol):
    """A GPU whose state can be read."""

    is_part: bool

    def state(self) -> GpuState:
        """The state now."""

    def facts(self) -> dict[str, Any]:
        """What does not change during a run."""

    def compute_mode(self) -> str | None:
        """How many processes may compute there; None where that is not known."""

    def processes(self) -> frozenset[int] | None:
        """Ids of the processes that compute there; None where that is not known."""


def identity(target: torch.device) -> str:
    """The UUID of a GPU, or of a part of a divided one. Raises Unreadable."""
    uuid = str(_properties(target).uuid)
    return _part(target.index or 0) or f"GPU-{uuid.removeprefix('GPU-')}"


def find(target: torch.device) -> Gpu:
    """What reads its state. Raises Unreadable."""
    import torch

    from vitbench.devices import _nvml, _tegra

    if torch.version.hip is not None:
        raise Unreadable("the state of an AMD GPU (ROCm) is not read")
    is_integrated = _properties(target).is_integrated
    return _tegra.Gpu() if is_integrated else _nvml.Gpu(identity(target))


def _properties(target: torch.device) -> Any:
    import torch

    try:
        return torch.cuda.get_device_properties(target)
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        raise Unreadable(f"CUDA does not start: {first_line(error)}") from error


def _part(index: int) -> str:
    """The part of a divided GPU that CUDA_VISIBLE_DEVICES names for this index, which torch calls
    as if it were whole; "" where it names none."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    name = names[index].strip() if index < len(names) else ""
    return name if name.startswith("MIG-") else ""


def idle(gpu: Gpu, *, was_used: bool) -> dict[str, Any]:
    """What others do there while we do nothing, as columns. Where we used it just now, our own work
    is waited for until it has left the reading."""
    utilisation, start = gpu.state().utilisation, time.monotonic()
    while was_used and (utilisation or 0) > _QUIET and time.monotonic() - start < _PERIOD_S:
        time.sleep(_LOOK_S)
        utilisation = gpu.state().utilisation
    return {"gpu_idle_utilisation": utilisation, "gpu_processes": _others(gpu.processes())}


def _others(processes: frozenset[int] | None) -> int | None:
    """How many of these are no workers of our runner. None where they cannot be told from others:
    in a container NVML gives the ids that its host gave."""
    count = 0
    for process in processes or ():
        try:
            count += psutil.Process(process).ppid() != os.getppid()
        except psutil.AccessDenied:
            count += 1
        except psutil.NoSuchProcess:
            return None
    return None if processes is None else count


@dataclass(frozen=True, slots=True)
class _Counters:
    """What only grows: seconds of the host's clock, seconds under a limit, joules."""

    at_s: float
    thermal_s: float | None
    power_cap_s: float | None
    energy_j: float | None

    @classmethod
    def of(cls, state: GpuState) -> _Counters:
        return cls(time.monotonic(), state.thermal_s, state.power_cap_s, state.energy_j)

    def since(self, start: _Counters) -> dict[str, float | None]:
        """What was added since then."""
        return {
            "seconds": self.at_s - start.at_s,
            "heat_held_s": _less(self.thermal_s, start.thermal_s),
            "power_held_s": _less(self.power_cap_s, start.power_cap_s),
            "used_j": _less(self.energy_j, start.energy_j),
        }


def _less(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else now - before


class GpuWatch(Watch):
    """Readings between samples, each with what was counted since the one before.

    reserved  bytes that this process holds there
    """

    def __init__(self, gpu: Gpu, reserved: Callable[[], int]) -> None:
        self._gpu, self._reserved = gpu, reserved
        self._free_before = self._free_of_others()
        self._counters = _Counters.of(gpu.state())
        self.read = self._read

    def _read(self) -> dict[str, Any]:
        state, start = self._gpu.state(), self._counters
        self._counters = _Counters.of(state)
        return state.to_dict() | self._counters.since(start)

    def restart(self) -> None:
        self._counters = _Counters.of(self._gpu.state())

    def is_suspect(self, reading: Mapping[str, Any]) -> bool:
        held_s = reading["heat_held_s"] or 0.0
        return bool(reading["bad_reasons"]) or held_s > _THERMAL_SHARE * reading["seconds"]

    def cool_down(self) -> None:
        """Until no reason for a lowered clock is left, or the time is up."""
        start = time.monotonic()
        time.sleep(_LOOK_S)
        while self._gpu.state().bad_reasons and time.monotonic() - start < _COOL_S:
            time.sleep(_LOOK_S)

    def columns(self, readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if not readings:
            return {}

        def seen(name: str) -> list[Any]:
            return [reading[name] for reading in readings if reading[name] is not None]

        def rate(name: str) -> float | None:
            """Of a counter over all readings, where each has it."""
            seconds = sum(seen("seconds"))
            return sum(seen(name)) / seconds if len(seen(name)) == len(readings) else None

        clocks, power_w = seen("sm_clock_hz"), rate("used_j")
        if not power_w and seen("power_w"):
            power_w = statistics.mean(seen("power_w"))
        return {
            "sm_clock_hz": min(clocks, default=None),
            "sm_clock_spread": max(clocks) / min(clocks) - 1 if clocks and min(clocks) else None,
            "temperature_c": max(seen("temperature_c"), default=None),
            "power_w": power_w,
            "throttle_reasons": sorted({r for reasons in seen("bad_reasons") for r in reasons}),
            "throttled_share": rate("heat_held_s"),
            "power_capped_share": rate("power_held_s"),
        }

    def _free_of_others(self) -> int | None:
        """Free memory with what this process holds given back: it moves with others only.

        In a container the ids of other processes cannot be seen; this can.
        """
        free = self._gpu.state().free_bytes
        return None if free is None else free + self._reserved()

    def neighbours(self) -> dict[str, Any]:
        free = self._free_of_others()
        if free is None or self._free_before is None:
            return {}
        return {"gpu_memory_drift_bytes": abs(free - self._free_before)}


def energy(call: Call, seconds: float, gpu: Gpu, clock: Clock, queue: Queue) -> Energy:
    """Joules of one call by the GPU's counter, over at least so many seconds, 2 s and 20 of the
    counter's steps, from one step to another, after a warm-up. Raises Unreadable.

    The calls go on while the counter is read: of two batches one is queued.
    """
    if gpu.is_part:
        raise Unreadable("the counter is that of the whole GPU, of which a part (MIG) is measured")
    if gpu.state().energy_j is None:
        raise Unreadable("this GPU does not count its energy")
    reading = _warm_reading(call, clock)
    busy = 0.0 if reading.device_s is None else reading.device_s / reading.latency_s
    if busy * LAUNCH_BOUND_RATIO < 1:
        raise Unreadable("the GPU waits for the host between launches, and takes energy meanwhile")
    batch = max(1, round(_BATCH_S / reading.latency_s))
    queued: deque[Event] = deque()
    steps: list[tuple[float, float, int]] = []  # when, joules, calls
    seconds, calls, start = max(seconds, _LEAST_S), 0, queue.now()
    last_j = gpu.state().energy_j
    while len(steps) <= _LEAST_TICKS or steps[-1][0] - steps[0][0] < seconds:
        if queue.now() - start > _PATIENCE * seconds:
            raise Unreadable(f"the counter moved {len(steps)} times in {_PATIENCE * seconds:g} s")
        for _ in range(batch):
            call()
        calls += batch
        queued.append(queue.event())
        joules = gpu.state().energy_j
        if joules is not None and joules != last_j:
            steps.append((queue.now(), joules, calls))
            last_j = joules
        while len(queued) > 1:
            if queued[0].is_done():
                queued.popleft()
    queue.synchronize()
    (_, first_j, first_calls), (_, end_j, end_calls) = steps[0], steps[-1]
    per_call_j = (end_j - first_j) / (end_calls - first_calls)
    return Energy(per_call_j, len(steps) - 1, min(busy, 1.0))


def check_alone(columns: Mapping[str, Any]) -> None:
    """Raises Unreadable where others were on the GPU, as `idle` and `neighbours` saw it."""
    if "gpu_idle_utilisation" not in columns:
        raise Unreadable("the GPU's state could not be read any more")
    used, drift = columns["gpu_idle_utilisation"] or 0.0, columns.get("gpu_memory_drift_bytes") or 0
    if used > _QUIET:
        raise Unreadable(f"others used the GPU for {used:.0%} of the time")
    if columns["gpu_processes"]:
        raise Unreadable(f"other processes are on the GPU: {columns['gpu_processes']}")
    if drift > _DRIFT_BYTES:
        raise Unreadable(f"others' memory on the GPU moved by {drift / 2**20:.0f} MiB meanwhile")


def _warm_reading(call: Call, clock: Clock) -> Reading:
    """Of a few calls, when clock and power have settled."""
    calls, start = 1, clock.now()
    while True:
        per_call_s = clock.latency_s(call, calls)
        calls = max(1, round(_BATCH_S / per_call_s))
        if clock.now() - start >= _WARMUP_S:
            clock.read(call, calls)  # learns what keeps the queue ahead
            return clock.read(call, calls)
