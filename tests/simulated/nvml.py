"""A module as pynvml is, which tells of the simulated GPU. What it does not know, it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NoReturn

import pynvml

from tests.simulated import State
from tests.simulated.backend import Backend

WATTS = 100.0
HERTZ = 1_500_000_000
# How often a reading is renewed, seconds.
_ENERGY_TICK_S = 0.02
_UTILISATION_S = 0.2
_HOT, _POWER_CAP = 0x40, 0x04


class Nvml:
    """One GPU, whole or a part of it."""

    def __init__(self, backend: Backend, state: State) -> None:
        self._backend, self._queue, self._state = backend, backend.queue, state

    def __getattr__(self, name: str) -> Any:
        """Constants and exceptions are pynvml's."""
        return _refused if name.startswith("nvml") else getattr(pynvml, name)

    @property
    def _has_neighbour(self) -> bool:
        return self._queue.now() >= self._state.neighbour_from_s

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        if not self._state.is_readable:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802 - NVML's name
        if uuid.startswith("MIG-") is not self._state.is_part:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:  # noqa: N802 - NVML's name
        total = self._backend.allocator.capacity
        others = self._state.neighbour_bytes if self._has_neighbour else 0
        used = self._backend.allocator.reserved + others
        return SimpleNamespace(total=total, used=used, free=total - used)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:  # noqa: N802 - NVML's name
        """Of the last interval, ours included."""
        is_ours = 0 < self._queue.device_s > self._queue.now() - _UTILISATION_S
        others = self._state.neighbour if self._has_neighbour else 0.0
        return SimpleNamespace(gpu=100 if is_ours else round(100 * others), memory=0)

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802 - NVML's name
        return round(HERTZ * self._queue.clocks.share(self._queue.now()) / 1e6)

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:  # noqa: N802 - NVML's name
        return round(HERTZ / 1e6)

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802 - NVML's name
        return 90 if self._queue.clocks.is_slow(self._queue.now()) else 50

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802 - NVML's name
        return round(1e3 * WATTS)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802 - NVML's name
        hot = _HOT if self._queue.clocks.is_slow(self._queue.now()) else 0
        return hot | (_POWER_CAP if self._queue.clocks.power_cap < 1 else 0)

    def nvmlDeviceGetViolationStatus(self, handle: str, policy: int) -> Any:  # noqa: N802 - NVML's name
        is_heat = policy == pynvml.NVML_PERF_POLICY_THERMAL
        return SimpleNamespace(violationTime=round(1e9 * self._queue.clocks.slowed_s * is_heat))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802 - NVML's name
        ticks = int(self._queue.now() / _ENERGY_TICK_S)
        return round(1e3 * WATTS * ticks * _ENERGY_TICK_S)

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802 - NVML's name
        return "570.1"


def _refused(*arguments: object) -> NoReturn:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
