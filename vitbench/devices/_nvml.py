"""The GPU's own readings, through NVML. The only place that imports pynvml."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pynvml

from vitbench.devices import Unreadable

# Reasons for a lowered clock that make a measurement suspect (NVML's bit mask). The power cap is
# none (0x04): many boards work at it under any full load.
BAD_THROTTLE_REASONS = {
    0x08: "hardware slowdown",
    0x20: "thermal slowdown (software)",
    0x40: "thermal slowdown (hardware)",
    0x80: "power brake",
}


@dataclass(frozen=True, slots=True)
class GpuState:
    """One reading; a field that this GPU or driver does not tell is None.

    sm_clock_hz, max_sm_clock_hz, temperature_c, power_w, throttle (NVML's mask),
    energy_j (counter since the driver was loaded), utilisation (share of the last interval),
    free_bytes, thermal_s and power_cap_s (counters of the time that heat or the power limit held
    the clock down)
    """

    sm_clock_hz: int | None = None
    max_sm_clock_hz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttle: int | None = None
    energy_j: float | None = None
    utilisation: float | None = None
    free_bytes: int | None = None
    thermal_s: float | None = None
    power_cap_s: float | None = None

    @property
    def bad_reasons(self) -> tuple[str, ...]:
        """The throttle reasons that make a sample suspect, in words."""
        mask = self.throttle or 0
        return tuple(reason for bit, reason in BAD_THROTTLE_REASONS.items() if mask & bit)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, the reasons in words too."""
        return dataclasses.asdict(self) | {"bad_reasons": list(self.bad_reasons)}


class Gpu:
    """One GPU, found by its UUID or PCI bus id, since NVML and CUDA number them differently."""

    def __init__(self, uuid: str) -> None:
        """`uuid` as torch gives it, with or without a prefix; that of a part of a divided GPU is
        tried first. Raises Unreadable.
        """
        bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
        try:
            pynvml.nvmlInit()
            try:
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")
                self.is_part = True
            except pynvml.NVMLError:
                self._handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}")
                self.is_part = False
        except pynvml.NVMLError as error:
            raise Unreadable(f"NVML cannot read GPU {uuid}: {error}") from error
        if not self.is_part and (self._ask("MigMode") or (0,))[0]:
            raise Unreadable(f"GPU {uuid} is divided (MIG), and NVML does not know the part")

    def state(self) -> GpuState:
        """The state now. Of a part of a GPU only its memory is its own: the rest is the board's."""
        memory = self._ask("MemoryInfo")
        free_bytes = None if memory is None else int(memory.free)
        if self.is_part:
            return GpuState(free_bytes=free_bytes)
        rates = self._ask("UtilizationRates")
        sm = pynvml.NVML_CLOCK_SM
        return GpuState(
            sm_clock_hz=_hz(self._ask("ClockInfo", sm)),
            max_sm_clock_hz=_hz(self._ask("MaxClockInfo", sm)),
            temperature_c=self._ask("Temperature", pynvml.NVML_TEMPERATURE_GPU),
            power_w=_over_1000(self._ask("PowerUsage")),
            throttle=self._ask("CurrentClocksThrottleReasons"),
            energy_j=_over_1000(self._ask("TotalEnergyConsumption")),
            utilisation=None if rates is None else rates.gpu / 100,
            free_bytes=free_bytes,
            thermal_s=self._held_s(pynvml.NVML_PERF_POLICY_THERMAL),
            power_cap_s=self._held_s(pynvml.NVML_PERF_POLICY_POWER),
        )

    def _held_s(self, policy: int) -> float | None:
        """How long a policy held the clock down so far: NVML counts nanoseconds."""
        status = self._ask("ViolationStatus", policy)
        return None if status is None else status.violationTime / 1e9

    def facts(self) -> dict[str, Any]:
        """What does not change during a run: the board, its limits and the driver."""
        modes, pci, ecc = self._ask("MigMode"), self._ask("PciInfo"), self._ask("EccMode")
        sm, memory = pynvml.NVML_CLOCK_SM, pynvml.NVML_CLOCK_MEM
        return {
            "pci_bus_id": None if pci is None else pci.busId,
            "compute_mode": self.compute_mode(),
            "ecc": None if ecc is None else bool(ecc[0]),
            "max_sm_clock_hz": _hz(self._ask("MaxClockInfo", sm)),
            "max_memory_clock_hz": _hz(self._ask("MaxClockInfo", memory)),
            "application_sm_clock_hz": _hz(self._ask("ApplicationsClock", sm)),
            "driver": _ask(pynvml.nvmlSystemGetDriverVersion),
            "power_limit_w": _over_1000(self._ask("EnforcedPowerLimit")),
            "power_default_w": _over_1000(self._ask("PowerManagementDefaultLimit")),
            "persistence_mode": self._ask("PersistenceMode"),
            "mig_mode": 1 if self.is_part else None if modes is None else modes[0],
        }

    def compute_mode(self) -> str | None:
        """How many processes may compute there: "default" is any number."""
        mode = self._ask("ComputeMode")
        return None if mode is None else _COMPUTE_MODES.get(mode, str(mode))

    def processes(self) -> frozenset[int] | None:
        """Ids of the processes that compute there; in a container those of its host."""
        found = self._ask("ComputeRunningProcesses")
        return None if found is None else frozenset(process.pid for process in found)

    def _ask(self, what: str, *arguments: int) -> Any:
        return _ask(getattr(pynvml, f"nvmlDeviceGet{what}"), self._handle, *arguments)


_COMPUTE_MODES = {0: "default", 1: "exclusive", 2: "prohibited", 3: "exclusive"}


def cuda_of_driver() -> tuple[int, int] | None:
    """The newest version of CUDA that the driver knows; None where NVML does not tell."""
    try:
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    except pynvml.NVMLError:
        return None
    return version // 1000, version % 1000 // 10


def _ask(question: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None: many boards and containers leave single counters out."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def _hz(mhz: int | None) -> int | None:
    return None if mhz is None else mhz * 10**6


def _over_1000(value: int | None) -> float | None:
    return None if value is None else value / 1000
