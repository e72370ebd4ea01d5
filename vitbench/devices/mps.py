"""GPUs of Apple's chips, through torch.mps. Not yet verified on hardware."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from vitbench.devices import Call, Memory, _accelerator

if TYPE_CHECKING:
    import torch

RULES = _accelerator.rules("MPS", "the GPU of an Apple chip; not yet verified on hardware", 2e12)


class Device(_accelerator.Accelerator):
    """The GPU. It has no float64."""

    no_memory = "MPS backend out of memory"

    @property
    def backend(self) -> Any:
        import torch

        return torch.mps

    @staticmethod
    def count() -> int:
        import torch

        return int(torch.backends.mps.is_available())

    @staticmethod
    def reason_for_none() -> str:
        import torch

        return "" if torch.backends.mps.is_built() else "this torch is built without MPS"

    def refuses(self, dtype: str) -> str | None:
        """float64, which it does not have."""
        return f"{self.label} has no float64: take float32" if dtype == "float64" else None

    def reference(self) -> torch.device:
        """The host, which has float64."""
        import torch

        return torch.device("cpu")

    @property
    def label(self) -> str:
        return f"GPU of {platform.processor() or platform.machine()}"

    def synchronize(self) -> None:
        self.backend.synchronize()  # there is one, and it takes no name

    def keeps_much(self) -> bool:
        """It may: torch.mps does not say."""
        return True

    def memory(self, call: Call, held_bytes: int) -> Memory:
        """Raises NotImplementedError: torch.mps keeps no highest level."""
        raise NotImplementedError("torch.mps does not tell the highest level of memory")
