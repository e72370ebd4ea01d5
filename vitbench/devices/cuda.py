"""CUDA devices: a queue of launches, the caching allocator for memory, NVML for the GPU's state."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitbench.devices import Call, Watch, _accelerator, _queue

if TYPE_CHECKING:
    from vitbench.devices._nvml import Gpu

RULES = _accelerator.rules(
    "CUDA",
    "an NVIDIA GPU; `cuda:1` is the second",
    20e12,
    has_graphs=True,
    is_indexed=True,
    driver="/proc/driver/nvidia",
)


# Of scaled_dot_product_attention; torch chooses among them by the shapes.
_SDPA_BACKENDS = ("cudnn", "flash", "math", "mem_efficient")


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
    # The status of cuBLAS, which needs memory for its handles and workspaces, cuDNN, cuFFT, ...
    no_memory = r"\bCU[A-Z]+_(STATUS_)?(ALLOC_|INTERNAL_ERROR_(DEVICE|HOST)_ALLOCATION_)FAILED\b"

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

        _cuda_start.start(self.target, self.gpu(), workers)

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
        """Also: this device is the current one, fp32 is computed as fp32, and attention may use all
        its kernels.

        torch has an old and a new set of switches for TF32 and refuses to read them where they
        disagree, as when only the new are set: so first the old, then the new.
        """
        import torch

        super().configure(threads)
        torch.cuda.set_device(self.target)
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        for part in ("conv", "rnn"):
            getattr(torch.backends.cudnn, part).fp32_precision = "ieee"
        torch.backends.cudnn.benchmark = self.autotunes
        for name in _SDPA_BACKENDS:
            getattr(torch.backends.cuda, f"enable_{name}_sdp")(True)

    def facts(self) -> dict[str, Any]:
        """The GPU's properties; the driver's facts where NVML answers."""
        properties = self._properties()
        facts: dict[str, Any] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
        }
        from vitbench.devices import _nvml

        try:
            gpu = _nvml.Gpu(str(properties.uuid))
            facts |= gpu.facts() | {"idle": gpu.state().to_dict()}
        except _nvml.GpuUnreadable as error:
            facts["nvml"] = str(error)
        return {"gpu": facts}

    def _properties(self) -> Any:
        import torch

        return torch.cuda.get_device_properties(self.target)

    def gpu(self) -> Gpu | None:
        """The GPU as NVML has it; None where NVML does not answer."""
        from vitbench.devices import _nvml

        try:
            return _nvml.Gpu(str(self._properties().uuid))
        except _nvml.GpuUnreadable:
            return None

    def idle(self) -> dict[str, Any]:
        gpu = self.gpu()
        return {} if gpu is None else {"gpu_idle_utilisation": gpu.state().utilisation}

    def queue(self) -> _queue.Queue:
        return _Queue(self)

    def cache_bytes(self) -> int:
        return int(self._properties().L2_cache_size)

    def watch(self) -> Watch:
        gpu = self.gpu()
        return Watch() if gpu is None else GpuWatch(self, gpu)

    def energy_j(self, call: Call, seconds: float) -> float | None:
        """From NVML's energy counter."""
        gpu = self.gpu()
        before = None if gpu is None else gpu.state().energy_j
        if gpu is None or before is None:
            return None
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for _ in range(10):
                call()
            self.synchronize()
            calls += 10
        after = gpu.state().energy_j
        return None if after is None else (after - before) / calls

    def uses_tf32(self) -> bool:
        import torch

        return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")

    def capture(self, call: Call) -> tuple[Call, Any]:
        import torch

        stream = torch.cuda.Stream(self.target)
        stream.wait_stream(torch.cuda.current_stream(self.target))
        with torch.cuda.stream(stream):
            for _ in range(3):  # lazy initialisation must not be captured
                call()
        torch.cuda.current_stream(self.target).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = call()
        return graph.replay, output


class GpuWatch(Watch):
    """NVML's readings between samples."""

    def __init__(self, device: Device, gpu: Gpu) -> None:
        self._device = device
        self._gpu = gpu
        self._free_before = self._free_of_others()
        self.read = lambda: gpu.state().to_dict()

    def _free_of_others(self) -> int | None:
        """Free memory with what this process holds given back: it moves with others only.

        In a container the ids of other processes cannot be seen; this can.
        """
        import torch

        free = self._gpu.state().free_bytes
        return None if free is None else free + torch.cuda.memory_reserved(self._device.target)

    def is_suspect(self, reading: Mapping[str, Any]) -> bool:
        return bool(reading["bad_reasons"])

    def columns(self, readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if not readings:
            return {}

        def seen(name: str) -> list[Any]:
            return [reading[name] for reading in readings if reading[name] is not None]

        return {
            "sm_clock_hz": min(seen("sm_clock_hz"), default=None),
            "temperature_c": max(seen("temperature_c"), default=None),
            "power_w": statistics.mean(seen("power_w")) if seen("power_w") else None,
            "throttle_reasons": sorted({r for reasons in seen("bad_reasons") for r in reasons}),
        }

    def neighbours(self) -> dict[str, Any]:
        free = self._free_of_others()
        if free is None or self._free_before is None:
            return {}
        return {"gpu_memory_drift_bytes": abs(free - self._free_before)}
