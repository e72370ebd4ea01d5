"""The simulated accelerator: the CUDA device, in a worker whose torch.cuda and NVML are simulated.

A worker computes a call once, on the host; its operators are then launched into the queue, and
their results taken from the allocator.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch

from tests.simulated import state
from tests.simulated.allocator import Allocator
from tests.simulated.gpu import backend_of, install
from vitbench.devices import (
    Call,
    Energy,
    Graph,
    Memory,
    NotRecordable,
    _accelerator,
    _queue,
    cpu,
    cuda,
)
from vitbench.engine import child
from vitbench.instruments import _dispatch
from vitbench.instruments.correctness import tensors_in
from vitbench.results.outcome import Ceilings

RULES = _accelerator.rules(
    "simulated",
    "an accelerator over a virtual clock",
    1e12,
    has_graphs=True,
    has_cuda=True,
    is_indexed=True,
)
# Operators that ask for a value, for which the host waits; the first is made of the other.
_ASK = {"item", "_local_scalar_dense"}


class Clock(_queue.Clock):
    """Times as many launches as a call dispatches operators."""

    def __init__(self, device: Device, flush: Call | None) -> None:
        super().__init__(device.queue(), flush)
        self._device = device

    def latency_s(self, call: Call, calls: int) -> float:
        return super().latency_s(self._device.launches_of(call), calls)

    def device_s(self, call: Call, calls: int) -> float | None:
        return super().device_s(self._device.launches_of(call), calls)


class Device(cuda.Device):
    """One of two."""

    def __init__(self, name: str) -> None:
        self.name, self.target = name, torch.device("cpu")
        self.state = state()
        self.simulated = backend_of(self.state)
        self._computed: tuple[Call, Call] | None = None
        self._replayed = 0  # kernels of the graph that a call replayed
        if child._MARK in os.environ:  # not where a run is planned, or tests run
            install(self.simulated, self.state)

    @property
    def backend(self) -> Any:
        """Also in the process that plans a run, where torch.cuda is torch's."""
        return self.simulated

    @staticmethod
    def count() -> int:
        return 2

    def launches_of(self, call: Call) -> Call:
        """What a call does to the device, once it was computed; it holds no results."""
        if self._computed is None or call not in self._computed:
            self._replayed = 0
            kernels_s = [self.state.kernel_s] * _dispatch.trace(call).calls
            if self._replayed:  # in one launch
                kernels_s = [self.state.kernel_s * self._replayed]
            self._computed = call, self.simulated.queue.call_of(kernels_s)
        return self._computed[1]

    def clock(self, *, cold: bool = False) -> Clock:
        return Clock(self, (lambda: self.simulated.queue.launch(1e-4)) if cold else None)

    def memory(self, call: Call, held_bytes: int) -> Memory:
        """Of the call's own tensors, in the order in which it takes and frees them."""
        self._replayed = 0
        events = cpu.allocations(call)
        if self._replayed:  # it takes nothing
            events = []
        return super().memory(lambda: self.simulated.allocator.repeat(events), held_bytes)

    def capture(self, call: Call) -> Graph:
        """A replay computes anew, on the host, what the call returned."""
        traced = _dispatch.trace(call)
        if _ASK & traced.names.keys():
            raise NotRecordable("called a synchronizing operation")
        pool = Allocator()
        pool.repeat(cpu.allocations(call))
        output = call()

        def replay() -> None:
            for static, anew in zip(tensors_in(output), tensors_in(call()), strict=True):
                with torch.no_grad():
                    static.copy_(anew)
            self._replayed = traced.calls

        return Graph(replay, output, pool.highest, pool.highest_reserved)

    def energy(self, call: Call, seconds: float) -> Energy | None:
        return super().energy(self.launches_of(call), seconds)

    def ceilings(
        self, dtypes: Sequence[str], seconds: float = 0.3
    ) -> tuple[Ceilings, tuple[str, ...]]:
        """Far above anything, after work as they are measured by."""
        self.simulated.queue.launch(seconds)
        self.simulated.queue.synchronize()
        return Ceilings(dict.fromkeys(dtypes, 1e15), 1e15), ()
