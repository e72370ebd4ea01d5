"""Intel GPUs, through torch.xpu. Not yet verified on hardware."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vitbench.devices import _accelerator

if TYPE_CHECKING:
    import torch

RULES = _accelerator.rules(
    "XPU",
    "an Intel GPU; `xpu:1` is the second; not yet verified on hardware",
    5e12,
    is_indexed=True,
    resource="GPU",
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

    def refuses(self, dtype: str) -> str | None:
        """float64 where the GPU has no instructions for it, as on Arc."""
        if dtype != "float64" or self._has_float64():
            return None
        return f"{self.label} has no float64: take float32"

    def reference(self) -> torch.device:
        """The GPU where it has float64, else the host."""
        import torch

        return self.target if self._has_float64() else torch.device("cpu")

    def _has_float64(self) -> bool:
        return bool(self.backend.get_device_properties(self.target).has_fp64)

    @property
    def identity(self) -> str:
        return f"XPU-{self.backend.get_device_properties(self.target).uuid}"

    def facts(self) -> dict[str, Any]:
        """The GPU's name and memory."""
        properties = self.backend.get_device_properties(self.target)
        return {"xpu": {"name": properties.name, "memory_bytes": properties.total_memory}}
