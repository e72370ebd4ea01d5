"""The state of a Jetson's GPU, as Linux shows it under /sys, where NVML reads no integrated GPU.

https://docs.nvidia.com/jetson/archives/ (Jetson Linux Developer Guide, "Clocks" and "Thermal
Management"). Not yet verified on hardware.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitbench.devices import Unreadable
from vitbench.devices._nvml import GpuState

ROOT = Path("/sys")
_LOADS = ("devices", "devices/platform")
_CLOCKS = ("gpu", "ga10b", "gv11b", "gp10b", "gm20b")  # of the driver's names for the GPU


class Gpu:
    """The one GPU. Its clock, temperature and load can be read; its memory is the host's."""

    is_part = False

    def __init__(self) -> None:
        """Raises Unreadable where the system shows no clock of a Tegra's GPU."""
        folders = sorted((ROOT / "class/devfreq").glob("*"))
        clocks = [path for path in folders if path.name.rpartition(".")[2] in _CLOCKS]
        if not clocks:
            raise Unreadable("NVML reads no integrated GPU, and /sys shows no clock of it")
        self._clock = clocks[0]

    def state(self) -> GpuState:
        """The state now."""
        loads = [_number(ROOT / folder / "gpu.0/load") for folder in _LOADS]
        shares = [per_mille / 1000 for per_mille in loads if per_mille is not None]
        return GpuState(
            sm_clock_hz=_number(self._clock / "cur_freq"),
            max_sm_clock_hz=_number(self._clock / "max_freq"),
            temperature_c=_temperature_c(),
            utilisation=shares[0] if shares else None,
        )

    def facts(self) -> dict[str, Any]:
        """The board's name."""
        try:
            model = (ROOT / "firmware/devicetree/base/model").read_text().strip("\0\n")
        except OSError:
            model = None
        return {"board": model}

    def compute_mode(self) -> str | None:
        return None

    def processes(self) -> frozenset[int] | None:
        return None


def _temperature_c() -> int | None:
    for zone in sorted((ROOT / "class/thermal").glob("thermal_zone*")):
        try:
            is_gpu = (zone / "type").read_text().lower().startswith("gpu")
        except OSError:
            continue
        if is_gpu and (milli := _number(zone / "temp")) is not None:
            return milli // 1000
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
