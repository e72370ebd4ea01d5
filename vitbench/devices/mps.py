"""GPUs of Apple's chips, through torch.mps. Not yet verified on hardware."""

from __future__ import annotations

import platform
from typing import Any

from vitbench.devices import Call, Memory, Rules, _accelerator

_RATE = 2e12

RULES = Rules(
    title="MPS",
    summary="the GPU of an Apple chip; not yet verified on hardware",
    max_slowdown=0.05,
    macs_per_s=dict.fromkeys(("float32", "bfloat16", "float16", "float64"), _RATE),
    timing={"warmup_calls": 10, "warmup_s": 0.5, "sample_s": 0.001},
    ruined_by=("error", "out_of_memory"),
)


class Device(_accelerator.Accelerator):
    """The GPU. It has no float64: outputs are checked in the case's own dtype."""

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

    @property
    def label(self) -> str:
        return f"GPU of {platform.processor() or platform.machine()}"

    def synchronize(self) -> None:
        self.backend.synchronize()  # there is one, and it takes no name

    def memory(self, call: Call, held_bytes: int) -> Memory:
        """Raises NotImplementedError: torch.mps keeps no highest level."""
        raise NotImplementedError("torch.mps does not tell the highest level of memory")
