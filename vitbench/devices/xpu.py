"""Intel GPUs, through torch.xpu. Not yet verified on hardware."""

from __future__ import annotations

from typing import Any

from vitbench.devices import Rules, _accelerator

_RATE = 5e12

RULES = Rules(
    title="XPU",
    summary="an Intel GPU; `xpu:1` is the second; not yet verified on hardware",
    max_slowdown=0.05,
    macs_per_s=dict.fromkeys(("float32", "bfloat16", "float16", "float64"), _RATE),
    timing={"warmup_calls": 10, "warmup_s": 0.5, "sample_s": 0.001},
    is_indexed=True,
    ruined_by=("error", "out_of_memory"),
)


class Device(_accelerator.Accelerator):
    """One GPU, by the name that torch gives it."""

    @property
    def backend(self) -> Any:
        import torch

        return torch.xpu

    @staticmethod
    def count() -> int:
        import torch

        return torch.xpu.device_count() if torch.xpu.is_available() else 0

    @staticmethod
    def reason_for_none() -> str:
        import torch

        return "" if torch.version.xpu else "this torch is built without XPU"

    def configure(self, threads: int) -> None:
        """Also: this device is the current one."""
        super().configure(threads)
        self.backend.set_device(self.target)

    def facts(self) -> dict[str, Any]:
        """The GPU's name and memory."""
        properties = self.backend.get_device_properties(self.target)
        return {"xpu": {"name": properties.name, "memory_bytes": properties.total_memory}}
