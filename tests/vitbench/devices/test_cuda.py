"""CUDA devices, with stand-ins for the GPU."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vitbench.devices import _nvml, cuda

QUIET = _nvml.GpuState(
    sm_clock_hz=1_400_000_000,
    max_sm_clock_hz=1_980_000_000,
    temperature_c=60,
    power_w=300.0,
    throttle=0,
    energy_j=None,
    utilisation=None,
    free_bytes=1000,
)


class Gpu:
    """A GPU whose state the test sets."""

    def __init__(self) -> None:
        self.now = QUIET

    def state(self) -> _nvml.GpuState:
        return self.now


def watch_of(gpu: Gpu) -> cuda.GpuWatch:
    """A watch over it."""
    device: Any = SimpleNamespace(target="cuda")
    stand_in: Any = gpu
    return cuda.GpuWatch(device, stand_in)


@pytest.mark.parametrize(("free_bytes", "drift"), [(800, 0), (750, 50), (None, None)])
def test_memory_that_others_take(
    monkeypatch: pytest.MonkeyPatch, free_bytes: int | None, drift: int | None
) -> None:
    """What we take ourselves is no drift; what others take is."""
    reserved = iter((100, 300))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: next(reserved))
    gpu = Gpu()
    watch = watch_of(gpu)
    gpu.now = dataclasses.replace(QUIET, free_bytes=free_bytes)
    assert watch.neighbours().get("gpu_memory_drift_bytes") == drift


def test_the_worst_reading_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest clock, the highest temperature and power, and every reason for a low clock."""
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    gpu = Gpu()
    watch = watch_of(gpu)
    assert watch.read is not None
    assert watch.columns([]) == {}
    readings = [watch.read()]
    assert not watch.is_suspect(readings[0])
    gpu.now = dataclasses.replace(QUIET, sm_clock_hz=10**9, temperature_c=None, throttle=0x4C)
    readings.append(watch.read())
    assert watch.is_suspect(readings[1])
    assert watch.columns(readings) == {
        "sm_clock_hz": 10**9,
        "temperature_c": 60,
        "power_w": 300.0,
        "throttle_reasons": ["hardware slowdown", "thermal slowdown (hardware)"],
    }
