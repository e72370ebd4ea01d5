"""Energy of an image, where the device counts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitbench.instruments import Column, Workload

ORDER = 3
COLUMNS = (
    Column("energy_j_img", "J", "energy per image (CUDA, where NVML has the counter)", signed=True),
)


def read(workload: Workload) -> Mapping[str, Any]:
    """It takes half a second, so only where the call is timed too."""
    energy_j = workload.device.energy_j(workload.call) if workload.is_timed else None
    return {"energy_j_img": None if energy_j is None else energy_j / workload.images}
