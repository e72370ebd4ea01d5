"""What torch.cuda, torch.xpu and torch.mps have in common: a queue, its events, an allocator."""

from __future__ import annotations

import functools
import gc
import math
import sys
import time
from typing import Any

from vitbench import devices
from vitbench.devices import Call, Clock, Memory, Rules, _queue


def rules(title: str, summary: str, macs_per_s: float, **others: Any) -> Rules:
    """The rules of a kind of accelerator that reaches this rate in every dtype, and what else holds
    for it alone. An idle one raises its clock slowly, so the warm-up is longer than on a CPU.
    """
    return Rules(
        title=title,
        summary=summary,
        max_slowdown=0.05,
        macs_per_s=dict.fromkeys(("float32", "bfloat16", "float16", "float64"), macs_per_s),
        # Two runs of the default effort are compared by ranks, which needs four rounds of each.
        rounds={"quick": 2, "default": 4, "thorough": 6},
        timing={"warmup_calls": 10, "warmup_s": 0.5, "sample_s": 0.001},
        # Kernels are chosen by timing them, and with them their workspaces.
        memory_tolerance_bytes=2 * 2**20,
        memory_tolerance_share=0.01,
        ruined_by=("error", "out_of_memory"),
        **others,
    )


# Of a device's memory: two processes that keep no more than this have room beside each other.
_MOST_KEPT = 1 / 3
# Work that keeps a device busy is asked for in pieces of about so long.
_PIECE_S = 1e-3


class Event:
    """An event of torch's, recorded now."""

    def __init__(self, backend: Any) -> None:
        self._event = backend.Event(enable_timing=True)
        self._event.record()

    def is_done(self) -> bool:
        return bool(self._event.query())

    def seconds_since(self, start: Event) -> float:
        milliseconds: float = start._event.elapsed_time(self._event)
        return milliseconds / 1e3


class Queue:
    """The queue of a device, kept busy by matrix products.

    What one takes is learnt when it is first needed, which is after the warm-up: an idle device's
    clock may be several times slower.
    """

    def __init__(self, device: Accelerator) -> None:
        self._device = device
        self._pieces: tuple[Call, float] | None = None

    def event(self) -> Event:
        return Event(self._device.backend)

    def keep_busy(self, seconds: float) -> None:
        if self._pieces is None:
            self._pieces = self._learn()
        work, piece_s = self._pieces
        for _ in range(math.ceil(seconds / piece_s)):
            work()

    def _learn(self) -> tuple[Call, float]:
        """A piece of work and what it takes: a product, made larger until it is long enough."""
        import torch

        size = 512
        while True:
            a = torch.zeros(size, size, device=self._device.target)
            work = functools.partial(torch.mm, a, a, out=torch.empty_like(a))
            work()
            self.synchronize()
            start = self.event()
            work()
            end = self.event()
            self.synchronize()
            seconds = end.seconds_since(start)
            if seconds >= _PIECE_S or size >= 8192:
                return work, max(seconds, 1e-6)
            size *= 2

    def synchronize(self) -> None:
        self._device.synchronize()

    def now(self) -> float:
        return time.perf_counter()


class Accelerator(devices.Device):
    """A device of its own, with memory of its own, which works through a queue of launches.

    backend  the module of torch that drives it
    """

    product_sizes: tuple[int, ...] = (1024, 4096)
    copy_numel = 2**26
    backend: Any

    def __init__(self, name: str) -> None:
        """With the index that torch wants where a device is made the current one."""
        import torch

        super().__init__(name)
        self.target = torch.device(self.target.type, self.target.index or 0)

    @classmethod
    def is_out_of_memory(cls, error: BaseException) -> bool:
        """Also a kernel of Triton's that needs more memory of a processor than it has."""
        triton = sys.modules.get("triton.runtime.errors")
        is_tritons = triton is not None and isinstance(error, triton.OutOfResources)
        return is_tritons or super().is_out_of_memory(error)

    @property
    def label(self) -> str:
        return str(self.backend.get_device_name(self.target))

    def synchronize(self) -> None:
        self.backend.synchronize(self.target)

    def release(self) -> None:
        """Also what the allocator of the device keeps."""
        gc.collect()
        super().release()
        self.backend.empty_cache()

    def queue(self) -> _queue.Queue:
        """Its queue of launches."""
        return Queue(self)

    def cache_bytes(self) -> int:
        """Of the last cache before its memory."""
        return 2**27

    def clock(self, *, cold: bool = False) -> Clock:
        flush = self.scratch(2 * self.cache_bytes()) if cold else None
        return _queue.Clock(self.queue(), flush)

    def keeps_much(self) -> bool:
        _, total = self.backend.mem_get_info(self.target)
        return bool(self.backend.memory_reserved(self.target) > _MOST_KEPT * total)

    def memory(self, call: Call, held_bytes: int) -> Memory:
        """By how much the allocator's level rises. Workspaces that a library made in an earlier
        call stay: they are the process's, and cancel.
        """
        gc.collect()
        self.synchronize()
        self.backend.empty_cache()
        before = self.backend.memory_allocated(self.target)
        self.backend.reset_peak_memory_stats(self.target)
        result = call()
        self.synchronize()
        activation = self.backend.max_memory_allocated(self.target) - before
        reserved = self.backend.max_memory_reserved(self.target)
        del result
        return Memory(held_bytes + activation, activation, reserved, None)
