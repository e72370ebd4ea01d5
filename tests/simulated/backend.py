"""A module as torch.cuda, torch.xpu and torch.mps are, over the simulated queue and allocator."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from tests.simulated.allocator import Allocator
from tests.simulated.queue import VirtualQueue


@dataclass
class Backend:
    """What the devices of vitbench call of such a module.

    hertz      cycles a second of `_sleep`, at the highest clock
    is_broken  a kernel failed: from now on every wait fails, and giving memory back
    hangs      a kernel never ends
    """

    queue: VirtualQueue = field(default_factory=VirtualQueue)
    allocator: Allocator = field(default_factory=Allocator)
    hertz: float = 1e9
    current: Any = None
    is_broken: bool = False
    hangs: bool = False

    def Event(self, *, enable_timing: bool = False) -> Any:  # noqa: N802 - torch's name
        return BackendEvent(self, is_timed=enable_timing)

    def Stream(self, device: object) -> Any:  # noqa: N802 - torch's name
        """All queue in one: what a stream waits for is done before."""
        return BackendStream(1)

    def current_stream(self, device: object) -> Any:
        return BackendStream(0)

    def synchronize(self, device: object = None) -> None:
        """Waits, and fails as a real one does: when it is waited for."""
        while self.hangs:
            time.sleep(60)
        self._check()
        self.queue.synchronize()

    def _check(self) -> None:
        if self.is_broken:
            raise torch.AcceleratorError("an illegal memory access was encountered")

    def _sleep(self, cycles: int) -> None:
        self.queue.launch(cycles / self.hertz)

    def set_device(self, device: torch.device) -> None:
        # torch refuses a device that might be any; tensors of a simulated one lie on the host.
        assert device.index is not None or device.type == "cpu"
        self.current = device

    def empty_cache(self) -> None:
        self._check()
        self.allocator.empty_cache()

    def memory_allocated(self, device: object = None) -> int:
        return self.allocator.allocated

    def memory_reserved(self, device: object = None) -> int:
        return self.allocator.reserved

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        capacity = self.allocator.capacity
        return capacity - self.allocator.reserved, capacity

    def reset_peak_memory_stats(self, device: object = None) -> None:
        self.allocator.reset_peaks()

    def max_memory_allocated(self, device: object = None) -> int:
        return self.allocator.highest

    def max_memory_reserved(self, device: object = None) -> int:
        return self.allocator.highest_reserved

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True

    def get_device_name(self, device: object = None) -> str:
        return "a simulated accelerator"

    def get_device_properties(self, device: object = None) -> Any:
        return SimpleNamespace(
            name=self.get_device_name(),
            major=9,
            minor=0,
            total_memory=self.allocator.capacity,
            multi_processor_count=132,
            L2_cache_size=50 * 2**20,
            is_integrated=False,
            uuid="1234",
        )

    def install(self, module: object, set_attribute: Callable[..., None] = setattr) -> None:
        """In place of the module's own functions; what the module lacks, it goes on lacking."""
        for name, function in vars(Backend).items():
            if inspect.isfunction(function) and not name.startswith("__") and hasattr(module, name):
                set_attribute(module, name, getattr(self, name))


class BackendEvent:
    """An event of such a module."""

    def __init__(self, backend: Backend, *, is_timed: bool) -> None:
        self._queue, self._is_timed = backend.queue, is_timed

    def record(self, stream: BackendStream | None = None) -> None:
        self._event = self._queue.event()

    def query(self) -> bool:
        return self._event.is_done()

    def elapsed_time(self, end: BackendEvent) -> float:
        assert self._is_timed
        return 1e3 * end._event.seconds_since(self._event)


@dataclass
class BackendStream:
    """A stream of such a module; 0 is the default one."""

    cuda_stream: int
    waits_for: BackendEvent | None = None

    def wait_event(self, event: BackendEvent) -> None:
        self.waits_for = event
