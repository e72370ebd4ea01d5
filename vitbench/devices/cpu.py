"""The CPU: the wall clock, and exact memory from the allocator's own events."""

from __future__ import annotations

import functools
import gc
import itertools
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from vitbench import devices
from vitbench.devices import Call, Energy, Memory, Reading, Rules

if TYPE_CHECKING:
    from torch import Tensor

RULES = Rules(
    title="CPU",
    summary="the host's cores",
    max_slowdown=0.10,  # it is shared more often than a GPU
    macs_per_s={"float32": 60e9, "bfloat16": 60e9, "float64": 25e9, "float16": 2e9},
    rounds={"quick": 2, "default": 3, "thorough": 5},
    is_host=True,
    resource="CPU",
)


class Clock:
    """time.perf_counter. `flush` runs before each sample, outside the time (cold cache)."""

    def __init__(self, flush: Call | None = None) -> None:
        self.flush = flush

    def read(self, call: Call, calls: int) -> Reading:
        return Reading(self.latency_s(call, calls))

    def latency_s(self, call: Call, calls: int) -> float:
        if self.flush is not None:
            self.flush()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls

    def device_s(self, call: Call, calls: int) -> float | None:
        """The host has none of its own."""
        return None

    def now(self) -> float:
        return time.perf_counter()


class Device(devices.Device):
    """The CPU that this process runs on."""

    product_sizes: tuple[int, ...] = (256, 512, 1536)
    no_memory = "can't allocate memory"
    copy_numel = 2**26  # eight times a large last-level cache, so that memory is measured

    def __init__(self, name: str = "cpu") -> None:
        super().__init__(name)

    @staticmethod
    def count() -> int:
        return 1

    def products(self, a: Tensor, b: Tensor) -> Sequence[Call]:
        """By BLAS, and by oneDNN where torch has it: on CPUs of other makers than its own, MKL
        leaves the widest instructions unused that oneDNN and the runtimes use."""
        import torch

        calls = [*super().products(a, b)]
        if torch.backends.mkldnn.is_available() and a.dtype in (torch.float32, torch.bfloat16):
            linear = torch.ops.mkldnn._linear_pointwise
            calls.append(functools.partial(linear, a, b, None, "none", [], ""))
        return calls

    @property
    def label(self) -> str:
        import torch

        from vitbench.instruments import host

        count = torch.get_num_threads()
        return f"{host.cpu_facts()['model']}, {count} {'thread' if count == 1 else 'threads'}"

    def configure(self, threads: int) -> None:
        from vitbench.instruments import host

        host.place(threads)  # first: the threads that torch starts inherit it
        super().configure(threads)

    def synchronize(self) -> None:
        """Calls return when they are done."""

    def clock(self, *, cold: bool = False) -> Clock:
        return Clock(self.scratch(2**27) if cold else None)

    def memory(self, call: Call, held_bytes: int) -> Memory:
        from vitbench.instruments import host

        gc.collect()
        events: list[int] = []
        resident = host.highest_resident_bytes(lambda: events.extend(allocations(call)))
        activation = peak_of_events(events)
        return Memory(held_bytes + activation, activation, None, resident)

    def facts(self) -> dict[str, Any]:
        """Which energy counters there are, and why they cannot be read."""
        from vitbench.devices import _powercap

        zones = _powercap.zones()
        counters, reason = [zone.label for zone in zones], _powercap.reason_against(zones)
        return {"energy": {"counters": counters, "unreadable": reason}}

    def energy(self, call: Call, seconds: float) -> Energy | None:
        """By RAPL's counters of all packages and their memory. None where they cannot be read: the
        environment says why, once for the run. Raises Unreadable where they fail meanwhile."""
        from vitbench.devices import _powercap

        zones = _powercap.zones()
        if _powercap.reason_against(zones):
            return None
        return Energy(_powercap.energy_j(call, seconds, zones))


def allocations(call: Call) -> list[int]:
    """Bytes of every allocation (positive) and release (negative) of one call, in order."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as prof:
        result = call()
        del result
    results = prof.profiler.kineto_results
    return [event.nbytes() for event in results.events() if event.name() == "[memory]"]


def peak_of_events(events: Iterable[int]) -> int:
    """The highest level of a running sum that starts at zero."""
    return max(itertools.accumulate(events, initial=0))
