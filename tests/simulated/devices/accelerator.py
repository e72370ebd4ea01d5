"""The simulated accelerator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tests.simulated import state
from tests.simulated.queue import VirtualQueue
from vitbench import devices
from vitbench.devices import Call, Memory, Reading, Watch, _accelerator, _queue, cpu
from vitbench.instruments import _dispatch

RULES = _accelerator.rules(
    "simulated", "an accelerator over a virtual clock", 1e12, is_indexed=True
)

WATTS = 100.0


class Clock(_queue.Clock):
    """Times as many launches as a call dispatches operators."""

    def __init__(self, device: Device, flush: Call | None) -> None:
        super().__init__(device.queue, flush)
        self._device = device
        self._computed: tuple[Call, Call] | None = None

    def read(self, call: Call, calls: int) -> Reading:
        return super().read(self._simulated(call), calls)

    def latency_s(self, call: Call, calls: int) -> float:
        return super().latency_s(self._simulated(call), calls)

    def _simulated(self, call: Call) -> Call:
        """Its launches, once it was computed."""
        if self._computed is None or call not in self._computed:
            self._computed = call, self._device.launches_of(call)
        return self._computed[1]


class Device(devices.Device):
    """One of two."""

    def __init__(self, name: str) -> None:
        self.name, self.target = name, torch.device("cpu")
        self.state = state()
        self.queue = VirtualQueue(launch_s=self.state.launch_s)
        self.is_used = False
        self.is_broken = False

    @staticmethod
    def count() -> int:
        return 2

    @property
    def label(self) -> str:
        return "a simulated accelerator"

    def synchronize(self) -> None:
        """Waits, and fails as a real one does: when it is waited for."""
        self.is_used = True
        if self.is_broken:
            raise RuntimeError("an illegal memory access was encountered")
        self.queue.synchronize()

    def launches_of(self, call: Call) -> Call:
        """The launches of a call as they go into the queue, which hold no results."""
        self.is_used = True
        operators = _dispatch.trace(call).calls
        return self.queue.call_of([self.state.kernel_s] * operators)

    def clock(self, *, cold: bool = False) -> Clock:
        return Clock(self, (lambda: self.queue.launch(1e-4)) if cold else None)

    def memory(self, call: Call, held_bytes: int) -> Memory:
        """The level that the call's own tensors rise to."""
        activation = cpu.peak_of_events(cpu.allocations(call))
        return Memory(held_bytes + activation, activation, held_bytes + activation, None)

    def ceilings(self, dtypes: Sequence[str], seconds: float = 0.3) -> dict[str, Any]:
        self.is_used = True
        return {"flops_rate": dict.fromkeys(dtypes, 1e15), "bandwidth": 1e15}

    def facts(self) -> dict[str, Any]:
        return {"simulated": {"hertz": self.state.hertz}}

    def idle(self) -> dict[str, Any]:
        """What others use, and everything where we were there before."""
        if not self.state.is_readable:
            return {}
        return {"gpu_idle_utilisation": 1.0 if self.is_used else self.state.neighbour}

    def watch(self) -> Watch:
        return DeviceWatch(self) if self.state.is_readable else Watch()

    def energy_j(self, call: Call, seconds: float) -> float | None:
        launches = self.launches_of(call)
        self.queue.synchronize()
        start_s = self.queue.now()
        for _ in range(100):
            launches()
        self.queue.synchronize()
        return WATTS * (self.queue.now() - start_s) / 100 if self.state.is_readable else None


class DeviceWatch(Watch):
    """Its clock, and the reasons why it was lowered."""

    def __init__(self, device: Device) -> None:
        self._state = device.state
        self.read = lambda: {"throttled": self._state.throttled, "hertz": self._state.hertz}

    def is_suspect(self, reading: Mapping[str, Any]) -> bool:
        return bool(reading["throttled"])

    def columns(self, readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "sm_clock_hz": int(min(reading["hertz"] for reading in readings)),
            "throttle_reasons": list(self._state.throttled),
            "power_w": WATTS,
        }
