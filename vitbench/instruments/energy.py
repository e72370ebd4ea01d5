"""Energy of an image, where the device counts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitbench.instruments import Column, Workload

ORDER = 3
COLUMNS = (
    Column(
        "energy_j_img",
        "J",
        "energy per image: of a GPU by NVML's counter, of a CPU by RAPL's, all packages and their "
        "memory together, whoever used them; empty where there is no counter",
        signed=True,
    ),
)


def read(workload: Workload) -> Mapping[str, Any]:
    """Over as long as the workload says; 0: not at all."""
    seconds, device = workload.energy_s, workload.device
    energy_j = device.energy_j(workload.call, seconds) if seconds else None
    return {"energy_j_img": None if energy_j is None else energy_j / workload.images}
