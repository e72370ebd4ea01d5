"""The GPU's readings, with a stand-in for NVML that answers or refuses as boards do."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

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
}

FakeNvml = Callable[..., list[tuple[Any, ...]]]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """Installs an NVML whose named functions refuse, or answer otherwise; gives its calls."""

    def install(*refusing: str, **answers: Any) -> list[tuple[Any, ...]]:
        calls: list[tuple[Any, ...]] = []

        def function(name: str) -> Callable[..., Any]:
            def answer(*arguments: Any) -> Any:
                calls.append((name, *arguments))
                if name in refusing:
                    raise NVMLError("Not Supported")
                return (ANSWERS | answers)[name]

            return answer

        fake = SimpleNamespace(
            NVMLError=NVMLError,
            NVML_CLOCK_SM=1,
            NVML_TEMPERATURE_GPU=0,
            **{name: function(name) for name in ANSWERS},
        )
        monkeypatch.setattr(gpu, "pynvml", fake)
        return calls

    return install


def test_state_in_si_units(nvml: FakeNvml) -> None:
    """MHz, milliwatts, millijoules and per cent become hertz, watts, joules and shares."""
    nvml()
    assert gpu.Gpu("GPU-1234").state() == gpu.GpuState(
        sm_clock_hz=1_410_000_000,
        max_sm_clock_hz=1_980_000_000,
        temperature_c=61,
        power_w=312.5,
        throttle=0,
        energy_j=123.456,
        utilisation=0.37,
        free_bytes=30 * 2**30,
    )


def test_facts(nvml: FakeNvml) -> None:
    """Driver, power limit, and modes."""
    nvml()
    assert gpu.Gpu("GPU-1234").facts() == {
        "driver": "570.1",
        "power_limit_w": 700.0,
        "power_default_w": 650.0,
        "persistence_mode": 1,
        "mig_mode": 0,
    }


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("nvmlDeviceGetMemoryInfo", "free_bytes"),
        ("nvmlDeviceGetUtilizationRates", "utilisation"),
        ("nvmlDeviceGetClockInfo", "sm_clock_hz"),
        ("nvmlDeviceGetMaxClockInfo", "max_sm_clock_hz"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "throttle"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_j"),
    ],
)
def test_a_missing_counter_is_none(nvml: FakeNvml, function: str, field: str) -> None:
    """A board without one counter gives None for it, never 0, and all the others."""
    nvml()
    whole = gpu.Gpu("GPU-1234").state()
    nvml(function)
    state = gpu.Gpu("GPU-1234").state()
    assert getattr(state, field) is None
    for name in gpu.GpuState.__dataclass_fields__:
        if name != field:
            assert getattr(state, name) == getattr(whole, name)


def test_missing_facts_are_none(nvml: FakeNvml) -> None:
    """A container that may not ask for modes still has its driver."""
    nvml("nvmlDeviceGetMigMode", "nvmlDeviceGetEnforcedPowerLimit", "nvmlDeviceGetPersistenceMode")
    assert gpu.Gpu("GPU-1234").facts() == {
        "driver": "570.1",
        "power_limit_w": None,
        "power_default_w": 650.0,
        "persistence_mode": None,
        "mig_mode": None,
    }


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetHandleByUUID"])
def test_a_gpu_that_nvml_cannot_read(nvml: FakeNvml, function: str) -> None:
    """No library, or a board it does not know: one exception of ours, that names the GPU."""
    nvml(function)
    with pytest.raises(gpu.GpuUnreadable, match="GPU 1234: Not Supported"):
        gpu.Gpu("1234")


@pytest.mark.parametrize(
    ("uuid", "asked"), [("1234", "GPU-1234"), ("GPU-1234", "GPU-1234"), ("MIG-12", "MIG-12")]
)
def test_the_uuid_has_its_prefix(nvml: FakeNvml, uuid: str, asked: str) -> None:
    """torch gives UUIDs with or without it; NVML wants it."""
    calls = nvml()
    gpu.Gpu(uuid)
    assert ("nvmlDeviceGetHandleByUUID", asked) in calls


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (None, ()),
        (0x0, ()),
        (0x1, ()),  # idle
        (0x2, ()),  # clocks set by the user
        (0x4, ("power cap",)),
        (0x8, ("hardware slowdown",)),
        (0x20, ("thermal slowdown (software)",)),
        (0x40, ("thermal slowdown (hardware)",)),
        (0x80, ("power brake",)),
        (0x4 | 0x40 | 0x1, ("power cap", "thermal slowdown (hardware)")),
    ],
)
def test_throttle_reasons_in_words(nvml: FakeNvml, mask: int | None, words: tuple[str]) -> None:
    """Of NVML's bits those that make a figure suspect; being idle is none of them."""
    nvml(nvmlDeviceGetCurrentClocksThrottleReasons=mask)
    assert gpu.Gpu("GPU-1234").state().bad_reasons == words
