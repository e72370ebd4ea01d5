"""CUDA devices: a queue of launches, the caching allocator for memory, NVML for the GPU's state.

With a torch that is built for ROCm the same names drive AMD's GPUs.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from vitbench.devices import Call, Energy, Graph, Unreadable, Watch, _accelerator, _queue

if TYPE_CHECKING:
    from vitbench.devices._gpu import Gpu
    from vitbench.devices._side_stream import SideStream

RULES = _accelerator.rules(
    "CUDA",
    "an NVIDIA GPU; `cuda:1` is the second",
    20e12,
    has_graphs=True,
    has_cuda=True,
    is_indexed=True,
    resource="GPU",
    driver="/proc/driver/nvidia",
)


# cudaErrorMemoryAllocation: torch keeps the code of CUDA's own errors in `error_code`.
_NO_MEMORY = 2


class _Queue(_accelerator.Queue):
    """Kept busy by a kernel that counts cycles, whose rate is learnt when it is first needed."""

    _cycles_per_s = 0.0

    def keep_busy(self, seconds: float) -> None:
        import torch

        if not self._cycles_per_s:
            self._cycles_per_s = self._rate()
        torch.cuda._sleep(int(seconds * self._cycles_per_s))

    def _rate(self, cycles: int = 5_000_000) -> float:
        import torch

        torch.cuda._sleep(cycles)
        self.synchronize()
        start = self.event()
        torch.cuda._sleep(cycles)
        end = self.event()
        self.synchronize()
        return cycles / end.seconds_since(start)


class Device(_accelerator.Accelerator):
    """One GPU, by the name that torch gives it."""

    product_sizes = (1024, 8192)
    copy_numel = 2**28
    # The status of cuBLAS, which needs memory for its handles and workspaces, cuDNN, cuFFT, ...;
    # and what TensorRT logs.
    no_memory = (
        r"\bCU[A-Z]+_(STATUS_)?(ALLOC_|INTERNAL_ERROR_(DEVICE|HOST)_ALLOCATION_)FAILED\b"
        r"|Cuda Runtime \(out of memory\)"
    )
    _is_started = False

    @property
    def backend(self) -> Any:
        import torch

        return torch.cuda

    @staticmethod
    def count() -> int:
        import torch

        return torch.cuda.device_count() if torch.cuda.is_available() else 0

    @staticmethod
    def reason_for_none() -> str:
        from vitbench.devices import _cuda_start

        return _cuda_start.reason_for_none()

    def start(self, workers: int) -> None:
        from vitbench.devices import _cuda_start

        _cuda_start.start(self.name, self.target, self.gpu(), workers)
        self._is_started = True

    @classmethod
    def is_out_of_memory(cls, error: BaseException) -> bool:
        """Also by the code of CUDA's own errors."""
        import torch

        if isinstance(error, torch.AcceleratorError):
            return getattr(error, "error_code", None) == _NO_MEMORY
        return super().is_out_of_memory(error)

    def refuses(self, dtype: str) -> str | None:
        """bfloat16 where the GPU has no instructions for it, as before Ampere."""
        if dtype != "bfloat16" or self.backend.is_bf16_supported(including_emulation=False):
            return None
        return f"{self.label} only emulates bfloat16: take float16 or float32"

    def configure(self, threads: int) -> None:
        """Also: this device is the current one, and torch's switches for it are set."""
        import torch

        from vitbench.devices import _cuda_settings

        super().configure(threads)
        torch.cuda.set_device(self.target)
        _cuda_settings.set_switches(autotunes=self.autotunes)

    @property
    def identity(self) -> str:
        from vitbench.devices import _gpu

        return _gpu.identity(self.target)

    def facts(self) -> dict[str, Any]:
        """The GPU's properties, what NVML tells of it, and torch's switches."""
        from vitbench.devices import _cuda_settings

        properties = self._properties()
        facts: dict[str, Any] = {
            "name": properties.name,
            "uuid": self.identity,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "is_integrated": bool(properties.is_integrated),
        }
        try:
            gpu = self.read_gpu()
            facts |= gpu.facts() | {"idle": gpu.state().to_dict()}
        except Unreadable as reason:
            facts["unreadable"] = str(reason)
        return {"gpu": facts, "cuda_settings": _cuda_settings.facts()}

    def _properties(self) -> Any:
        import torch

        return torch.cuda.get_device_properties(self.target)

    def read_gpu(self) -> Gpu:
        """What reads the GPU's state. Raises Unreadable."""
        from vitbench.devices import _gpu

        return _gpu.find(self.target)

    def gpu(self) -> Gpu | None:
        """The same; None where nothing does."""
        try:
            return self.read_gpu()
        except Unreadable:
            return None

    def idle(self) -> dict[str, Any]:
        from vitbench.devices import _gpu

        gpu = self.gpu()
        return {} if gpu is None else _gpu.idle(gpu, was_used=self._is_started)

    def queue(self) -> _queue.Queue:
        return _Queue(self)

    def cache_bytes(self) -> int:
        """torch tells of the L2 cache alone; AMD's GPUs have an Infinity Cache of up to 256 MiB
        behind it."""
        import torch

        l2_bytes = int(self._properties().L2_cache_size)
        return l2_bytes if torch.version.hip is None else max(l2_bytes, 2**28)

    def watch(self) -> Watch:
        import torch

        from vitbench.devices import _gpu

        gpu = self.gpu()
        if gpu is None:
            return Watch()
        return _gpu.GpuWatch(gpu, lambda: torch.cuda.memory_reserved(self.target))

    def energy(self, call: Call, seconds: float) -> Energy | None:
        """By NVML's counter, where nobody else is on the GPU. None where the GPU's state cannot be
        read at all."""
        from vitbench.devices import _gpu

        gpu = self.gpu()
        if gpu is None:
            return None
        watch, clock = self.watch(), self.clock()
        energy = _gpu.energy(call, seconds, gpu, clock, self.queue())
        _gpu.check_alone(self.idle() | watch.neighbours())
        return energy

    def uses_tf32(self) -> bool:
        from vitbench.devices import _cuda_settings

        return _cuda_settings.uses_tf32()

    def capture(self, call: Call) -> Graph:
        from vitbench.devices import _cuda_graph

        return _cuda_graph.capture(self, self._recording, call)

    def side_stream(self) -> SideStream:
        from vitbench.devices import _side_stream

        return _side_stream.SideStream(self.backend, self.target)

    @functools.cached_property
    def _recording(self) -> Any:
        """The stream on which graphs are recorded."""
        import torch

        return torch.cuda.Stream(self.target)
