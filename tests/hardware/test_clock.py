"""The clock of a GPU against the clocks of others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from tests.hardware.conftest import CUDA
from vitbench.analysis import stats
from vitbench.devices import Call, Device
from vitbench.instruments import timing
from vitbench.instruments.timing import TimingRule

RULE = TimingRule(warmup_s=0.5)


def product(device: Device) -> Call:
    """A large matrix product: milliseconds of arithmetic."""
    a, b = (torch.randn(4096, 4096, device=device.target) for _ in range(2))
    return lambda: torch.mm(a, b)


def copy(device: Device) -> Call:
    """A large copy: memory only."""
    a = torch.randn(2**27, device=device.target)
    b = torch.empty_like(a)
    return lambda: b.copy_(a)


def chain(device: Device) -> Call:
    """Twenty kernels that each take much longer than a launch."""
    a = torch.randn(2**24, device=device.target)

    def call() -> None:
        for _ in range(20):
            a.mul_(1.0)

    return call


def device_s(device: Device, call: Call, *, cold: bool) -> float:
    """The device's own time of a call, when it is warm: the median of thirty."""
    clock = device.clock(cold=cold)
    timing.warmed(call, clock, RULE)
    times = [clock.read(call, 1).device_s for _ in range(30)]
    known = [time for time in times if time is not None]
    assert len(known) == len(times)
    return stats.median(known)


@pytest.mark.parametrize("make", [product, copy, chain])
@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_it_agrees_with_triton(device: Device, make: Callable[[Device], Call]) -> None:
    """triton.testing.do_bench, which empties the caches before each call, as a cold clock does."""
    triton = pytest.importorskip("triton.testing")
    call = make(device)
    ours_s = device_s(device, call, cold=True)
    theirs_s = triton.do_bench(call, warmup=200, rep=300, return_mode="median") / 1e3
    assert ours_s == pytest.approx(theirs_s, rel=0.1)


@pytest.mark.parametrize("make", [product, copy, chain])
@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_it_agrees_with_the_kernels_that_the_profiler_sees(
    device: Device, make: Callable[[Device], Call]
) -> None:
    """The sum of their times, with no gap between them."""
    call = make(device)
    ours_s = device_s(device, call, cold=False)
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities, acc_events=True) as prof:
        for _ in range(10):
            call()
        device.synchronize()
    kernels = [
        event for event in prof.events() if event.device_type == torch.profiler.DeviceType.CUDA
    ]
    if not kernels:
        pytest.skip("the profiler sees no kernels here: it may not read the GPU's counters")
    theirs_s = sum(event.time_range.elapsed_us() for event in kernels) / 1e6 / 10
    assert ours_s == pytest.approx(theirs_s, rel=0.1)


@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_gaps_between_launches_are_hidden(device: Device) -> None:
    """Many small kernels, for which the device waits: its own time is that of the kernels, and the
    steady state is longer."""
    a = torch.randn(1024, device=device.target)

    def call() -> None:
        for _ in range(100):
            a.mul_(1.0)

    clock = device.clock(cold=False)
    timing.warmed(call, clock, RULE)
    reading = clock.read(call, 2)
    assert reading.device_s is not None
    assert reading.device_s < reading.latency_s


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("device", [pytest.param("cuda:1", marks=pytest.mark.cuda)], indirect=True)
def test_the_second_gpu_is_measured_where_it_is_asked_for(device: Device) -> None:
    """Its work is in its own time and memory, and the first GPU is left alone."""
    first = torch.cuda.memory_allocated(0)
    call = product(device)
    assert torch.cuda.current_device() == 1
    own_s = device_s(device, call, cold=False)
    reading = device.clock(cold=False).read(call, 3)
    assert reading.latency_s == pytest.approx(own_s, rel=0.1)
    assert device.memory(call, 0).activation == 4 * 4096**2
    assert torch.cuda.memory_allocated(0) == first
