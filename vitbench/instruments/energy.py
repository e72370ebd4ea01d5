"""Energy of an image, where the device counts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitbench.devices import Unreadable
from vitbench.instruments import NOTES, Column, Workload

ORDER = 3
COLUMNS = (
    Column(
        "energy_j_img",
        "J",
        "energy per image: of a GPU by NVML's counter, of a CPU by RAPL's, all packages and their "
        "memory together, whoever used them; empty where there is no counter",
        signed=True,
    ),
    Column(
        "energy_ticks", "", "steps of a GPU's energy counter that energy_j_img is read from", "int"
    ),
    Column("energy_busy_share", "share", "time that a GPU computed, while its energy was read"),
)
_NAMES = tuple(column.name for column in COLUMNS)


def read(workload: Workload) -> Mapping[str, Any]:
    """Over as long as the workload says; 0: not at all."""
    if not workload.energy_s:
        return dict.fromkeys(_NAMES)
    try:
        energy = workload.device.energy(workload.call, workload.energy_s)
    except Unreadable as reason:
        return dict.fromkeys(_NAMES) | {NOTES: f"energy: {reason}"}
    if energy is None:
        return dict.fromkeys(_NAMES)
    values = (energy.joules / workload.images, energy.ticks, energy.busy_share)
    return dict(zip(_NAMES, values, strict=True))
