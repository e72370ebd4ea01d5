"""Intel GPUs, through torch.xpu. Not yet verified on hardware."""

from __future__ import annotations

from typing import Any

from vitbench.devices import _accelerator

RULES = _accelerator.rules(
    "XPU",
    "an Intel GPU; `xpu:1` is the second; not yet verified on hardware",
    5e12,
    is_indexed=True,
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
