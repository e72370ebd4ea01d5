"""The GPU's readings, with a stand-in for NVML that answers or refuses as boards do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from vitbench.devices import Unreadable
from vitbench.devices import _nvml as gpu


class NVMLError(Exception):
    """As pynvml raises it."""


ANSWERS: dict[str, Any] = {
    "nvmlInit": None,
    "nvmlDeviceGetHandleByUUID": "handle",
    "nvmlDeviceGetMemoryInfo": SimpleNamespace(free=30 * 2**30),
    "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=37),
    "nvmlDeviceGetClockInfo": 1410,
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetTemperature": 61,
    "nvmlDeviceGetPowerUsage": 312_500,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0,
    "nvmlDeviceGetTotalEnergyConsumption": 123_456,
    "nvmlSystemGetDriverVersion": "570.1",
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 650_000,
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetViolationStatus": SimpleNamespace(violationTime=2_500_000_000),
    "nvmlDeviceGetPciInfo": SimpleNamespace(busId="00000000:01:00.0"),
    "nvmlDeviceGetEccMode": [1, 0],
    "nvmlDeviceGetComputeMode": 3,
    "nvmlDeviceGetApplicationsClock": 1755,
    "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=7), SimpleNamespace(pid=8)],
    "nvmlSystemGetCudaDriverVersion_v2": 12040,
}
STATE = gpu.GpuState(
    sm_clock_hz=1_410_000_000,
    max_sm_clock_hz=1_980_000_000,
    temperature_c=61,
    power_w=312.5,
    throttle=0,
    energy_j=123.456,
    utilisation=0.37,
    free_bytes=30 * 2**30,
    thermal_s=2.5,
    power_cap_s=2.5,
)
FACTS = {
    "pci_bus_id": "00000000:01:00.0",
    "compute_mode": "exclusive",
    "ecc": True,
    "max_sm_clock_hz": 1_980_000_000,
    "max_memory_clock_hz": 1_980_000_000,
    "application_sm_clock_hz": 1_755_000_000,
    "driver": "570.1",
    "power_limit_w": 700.0,
    "power_default_w": 650.0,
    "persistence_mode": 1,
    "mig_mode": 0,
}

FakeNvml = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """Installs an NVML whose named functions refuse; gives its calls."""

    def install(*refusing: str) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def function(name: str) -> Callable[..., Any]:
            def answer(*arguments: Any) -> Any:
                calls.append((name, *arguments))
                if name in refusing or {*arguments} & {*refusing}:
                    raise NVMLError("Not Supported")
                return ANSWERS[name]

            return answer

        fake = SimpleNamespace(
            NVMLError=NVMLError,
            NVML_CLOCK_SM=1,
            NVML_CLOCK_MEM=2,
            NVML_PERF_POLICY_POWER=0,
            NVML_PERF_POLICY_THERMAL=1,
            NVML_TEMPERATURE_GPU=0,
            **{name: function(name) for name in ANSWERS},
        )
        monkeypatch.setattr(gpu, "pynvml", fake)
        return calls

    return install


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("", ""),
        ("nvmlDeviceGetMemoryInfo", "free_bytes"),
        ("nvmlDeviceGetUtilizationRates", "utilisation"),
        ("nvmlDeviceGetClockInfo", "sm_clock_hz"),
        ("nvmlDeviceGetMaxClockInfo", "max_sm_clock_hz"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "throttle"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_j"),
        ("nvmlSystemGetDriverVersion", "driver"),
        ("nvmlDeviceGetEnforcedPowerLimit", "power_limit_w"),
        ("nvmlDeviceGetPowerManagementDefaultLimit", "power_default_w"),
        ("nvmlDeviceGetPersistenceMode", "persistence_mode"),
        ("nvmlDeviceGetMigMode", "mig_mode"),
        ("nvmlDeviceGetPciInfo", "pci_bus_id"),
        ("nvmlDeviceGetEccMode", "ecc"),
        ("nvmlDeviceGetComputeMode", "compute_mode"),
        ("nvmlDeviceGetApplicationsClock", "application_sm_clock_hz"),
    ],
)
def test_state_and_facts_in_si_units(nvml: FakeNvml, function: str, field: str) -> None:
    """MHz, milliwatts, millijoules and per cent become hertz, watts, joules and shares. A board
    without one counter gives None for it, never 0, and all the others."""
    nvml(function, "MIG-1234")
    board = gpu.Gpu("GPU-1234")
    missing = {field: None}
    if function == "nvmlDeviceGetMaxClockInfo":  # it is asked of two clocks, and for two places
        missing["max_memory_clock_hz"] = None
    assert dataclasses.asdict(board.state()) | missing == dataclasses.asdict(STATE) | missing
    assert board.facts() | missing == FACTS | missing
    assert (dataclasses.asdict(board.state()) | board.facts()).get(field) is None


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_a_gpu_that_nvml_cannot_read(nvml: FakeNvml, function: str) -> None:
    """No library, or a board it does not know: one exception of ours, that names the GPU."""
    nvml(function)
    with pytest.raises(Unreadable, match="GPU 1234: Not Supported"):
        gpu.Gpu("1234")


@pytest.mark.parametrize("uuid", ["1234", "GPU-1234", "MIG-1234"])
@pytest.mark.parametrize("is_part", [True, False])
def test_the_uuid_has_its_prefix(nvml: FakeNvml, uuid: str, is_part: bool) -> None:
    """torch gives UUIDs with or without it; NVML wants it, and has one for a part of a divided GPU,
    which torch names as if it were whole."""
    calls = nvml(*([] if is_part else ["MIG-1234"]))
    board = gpu.Gpu(uuid)
    asked = [one[1] for one in calls if one[0] == "nvmlDeviceGetHandleByUUID"]
    assert asked == ["MIG-1234"] if is_part else ["MIG-1234", "GPU-1234"]
    assert board.is_part is is_part


def test_a_divided_gpu_is_not_read_for_its_part(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where NVML knows the whole only, whose figures are those of all parts."""
    monkeypatch.setitem(ANSWERS, "nvmlDeviceGetMigMode", [1, 1])
    nvml("MIG-1234")
    with pytest.raises(Unreadable, match="divided"):
        gpu.Gpu("GPU-1234")


def test_processes_and_the_driver(nvml: FakeNvml) -> None:
    """As they are, or None where NVML does not tell."""
    nvml("MIG-1234")
    assert gpu.Gpu("1234").processes() == frozenset({7, 8})
    assert gpu.cuda_of_driver() == (12, 4)
    nvml("MIG-1234", "nvmlDeviceGetComputeRunningProcesses", "nvmlSystemGetCudaDriverVersion_v2")
    assert gpu.Gpu("1234").processes() is None
    assert gpu.cuda_of_driver() is None


def test_a_part_of_a_gpu_tells_its_memory_only(nvml: FakeNvml) -> None:
    """Clocks, power and energy are those of the whole board, which others use too."""
    nvml()
    state = dataclasses.asdict(gpu.Gpu("1234").state())
    assert state.pop("free_bytes") == 30 * 2**30
    assert set(state.values()) == {None}


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, ()),
        (0x0, ()),
        (0x1, ()),  # idle
        (0x2, ()),  # clocks set by the user
        (0x4, ()),  # the power cap, under which many boards work at any full load
        (0x8, ("hardware slowdown",)),
        (0x20, ("thermal slowdown (software)",)),
        (0x40, ("thermal slowdown (hardware)",)),
        (0x80, ("power brake",)),
        (0x4 | 0x40 | 0x1, ("thermal slowdown (hardware)",)),
    ],
)
def test_throttle_reasons_in_words(mask: int | None, words: tuple[str]) -> None:
    """Of NVML's bits those that make a figure suspect; being idle is none of them."""
    assert dataclasses.replace(STATE, throttle=mask).bad_reasons == words
