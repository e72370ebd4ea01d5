"""The GPU's own readings, through NVML. The only place that imports pynvml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

# Reasons for a lowered clock that make a measurement suspect (NVML's bit mask).
BAD_THROTTLE_REASONS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
}


BAD_THROTTLE_MASK = sum(BAD_THROTTLE_REASONS)


@dataclass(frozen=True, slots=True)
class GpuState:
    """One reading; a field that this GPU or driver does not tell is None.

    sm_clock_hz, max_sm_clock_hz, temperature_c, power_w, throttle (NVML's mask),
    energy_j (counter since the driver was loaded), utilisation (share of the last interval),
    free_bytes
    """

    sm_clock_hz: int | None
    max_sm_clock_hz: int | None
    temperature_c: int | None
    power_w: float | None
    throttle: int | None
    energy_j: float | None
    utilisation: float | None
    free_bytes: int | None

    @property
    def bad_reasons(self) -> tuple[str, ...]:
        """The throttle reasons that make a sample suspect, in words."""
        mask = self.throttle or 0
        return tuple(words for bit, words in BAD_THROTTLE_REASONS.items() if mask & bit)


class Gpu:
    """One GPU, found by its UUID or PCI bus id, since NVML and CUDA number them differently."""

    def __init__(self, uuid: str) -> None:
        """`uuid` as torch gives it, with or without the prefix "GPU-". Raises GpuUnreadable."""
        try:
            pynvml.nvmlInit()
            name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(name)
        except pynvml.NVMLError as error:
            raise GpuUnreadable(f"NVML cannot read GPU {uuid}: {error}") from error

    def state(self) -> GpuState:
        """The state now."""
        handle = self._handle
        memory = _ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
        rates = _ask(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
        sm = pynvml.NVML_CLOCK_SM
        return GpuState(
            sm_clock_hz=_scaled(_ask(lambda: pynvml.nvmlDeviceGetClockInfo(handle, sm)), 1e6),
            max_sm_clock_hz=_scaled(
                _ask(lambda: pynvml.nvmlDeviceGetMaxClockInfo(handle, sm)), 1e6
            ),
            temperature_c=_ask(
                lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)
            ),
            power_w=_over_1000(_ask(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))),
            throttle=_ask(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
            energy_j=_over_1000(_ask(lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))),
            utilisation=None if rates is None else rates.gpu / 100,
            free_bytes=None if memory is None else int(memory.free),
        )

    def facts(self) -> dict[str, Any]:
        """What does not change during a run: limits and driver."""
        handle = self._handle
        return {
            "driver": _ask(pynvml.nvmlSystemGetDriverVersion),
            "power_limit_w": _over_1000(
                _ask(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
            ),
            "power_default_w": _over_1000(
                _ask(lambda: pynvml.nvmlDeviceGetPowerManagementDefaultLimit(handle))
            ),
            "persistence_mode": _ask(lambda: pynvml.nvmlDeviceGetPersistenceMode(handle)),
            "mig_mode": _ask(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0]),
        }


class GpuUnreadable(RuntimeError):
    """NVML is absent, or it does not know the GPU."""


def _ask(question: Callable[[], Any]) -> Any:
    """The answer, or None: many boards and containers leave single counters out."""
    try:
        return question()
    except pynvml.NVMLError:
        return None


def _scaled(value: int | None, factor: float) -> int | None:
    return None if value is None else int(value * factor)


def _over_1000(value: int | None) -> float | None:
    return None if value is None else value / 1000
