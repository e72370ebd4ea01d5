"""The CUDA device over a simulated GPU: clocks that rise, heat, a power cap, NVML and MIG."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tests.simulated import State
from tests.simulated.backend import Backend
from tests.simulated.gpu import backend_of, install
from tests.simulated.nvml import HERTZ, WATTS
from vitbench.devices import Call, Unreadable, cuda
from vitbench.instruments import timing
from vitbench.instruments.timing import Timing, TimingRule

RULE = TimingRule(**cuda.RULES.timing)
KERNEL_S, LAUNCHES = 2e-5, 50


def gpu_of(state: State, patch: pytest.MonkeyPatch) -> tuple[cuda.Device, Backend, Call]:
    """A GPU in this state, its backend, and a call of some kernels."""
    backend = backend_of(state)
    install(backend, state, patch.setattr)
    device = cuda.Device("cuda")
    device.target = torch.device("cpu")
    return device, backend, backend.queue.call_of([KERNEL_S] * LAUNCHES)


def timed(device: cuda.Device, call: Call, rule: TimingRule = RULE) -> Timing:
    """A call on it."""
    return timing.measure(call, device.clock(), rule, watch=device.watch())


IDLE = State(idle_clock=0.2, rise_s=0.4)


@pytest.mark.parametrize(("warmup_s", "is_true"), [(RULE.warmup_s, True), (0.05, False)])
def test_the_warm_up_reaches_the_full_clock(
    monkeypatch: pytest.MonkeyPatch, warmup_s: float, is_true: bool
) -> None:
    """Every sample after it is that of a GPU that works, of which a shorter one falls short."""
    device, _, call = gpu_of(IDLE, monkeypatch)
    rule = dataclasses.replace(RULE, warmup_s=warmup_s, warmup_agree=1.0)
    samples = timed(device, call, rule).samples
    worst = max(abs(sample / (KERNEL_S * LAUNCHES) - 1) for sample in samples)
    assert (worst < 0.01) is is_true


def test_work_is_as_long_as_asked_for_after_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps the queue busy has learnt its rate at the full clock, not at the idle one."""
    device, backend, call = gpu_of(IDLE, monkeypatch)
    queue = device.queue()
    timing.warmed(call, device.clock(), RULE)
    queue.keep_busy(1e-3)
    before_s = backend.queue.device_s
    queue.keep_busy(1e-3)
    assert backend.queue.device_s - before_s == pytest.approx(1e-3, rel=0.01)


def test_heat_that_stays_is_kept_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """After some retries, with the reason and the clock."""
    device, _, call = gpu_of(State(slow_to_s=1e9), monkeypatch)
    watch = device.watch()
    found = timing.measure(call, device.clock(), RULE, watch=watch)
    assert found.retries == timing.MAX_RETRIES
    columns = watch.columns(found.chunks)
    assert columns["throttle_reasons"] == ["thermal slowdown (hardware)"]
    assert columns["sm_clock_hz"] == HERTZ / 2
    assert columns["throttled_share"] == pytest.approx(1.0, abs=0.1)


def test_heat_that_goes_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause lets it go, after which the GPU is warmed up again: every sample that is kept is one
    at the full clock."""
    device, _, call = gpu_of(dataclasses.replace(IDLE, slow_to_s=2.0), monkeypatch)
    watch = device.watch()
    found = timing.measure(call, device.clock(), RULE, watch=watch)
    assert found.retries == 1
    assert found.samples == [pytest.approx(KERNEL_S * LAUNCHES, rel=0.01)] * len(found.samples)
    columns = watch.columns(found.chunks)
    assert not columns["throttle_reasons"]
    assert columns["throttled_share"] == 0


def test_heat_that_goes_between_two_looks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the GPU counted meanwhile: it is over when it is looked for, and the samples that it
    slowed are taken again."""
    device, _, call = gpu_of(State(slow_to_s=0.65), monkeypatch)
    watch = device.watch()
    found = timing.measure(call, device.clock(), RULE, watch=watch)
    assert found.retries == 1
    assert found.samples == pytest.approx([KERNEL_S * LAUNCHES] * len(found.samples), rel=0.01)
    assert watch.columns(found.chunks)["throttled_share"] == 0


def test_a_power_cap_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many boards work at it under any full load: nothing is taken again, the time is what it is
    there, and the clock says why."""
    device, _, call = gpu_of(State(power_cap=0.8), monkeypatch)
    watch = device.watch()
    found = timing.measure(call, device.clock(), RULE, watch=watch)
    assert found.retries == 0
    assert found.samples[-1] == pytest.approx(KERNEL_S * LAUNCHES / 0.8, rel=0.01)
    columns = watch.columns(found.chunks)
    assert columns["sm_clock_hz"] == 0.8 * HERTZ
    assert not columns["throttle_reasons"]


@pytest.mark.parametrize("state", [State(is_readable=False), State(is_part=True)])
def test_what_cannot_be_read_is_empty(monkeypatch: pytest.MonkeyPatch, state: State) -> None:
    """Without NVML, and on a part of a GPU, whose clock, power and use are the board's."""
    device, _, call = gpu_of(state, monkeypatch)
    columns = device.idle() | device.watch().columns([])
    found = timed(device, call)
    columns |= device.watch().columns(found.chunks)
    assert columns.get("gpu_idle_utilisation") is None
    assert columns.get("sm_clock_hz") is None
    assert columns.get("power_w") is None
    if state.is_part:
        with pytest.raises(Unreadable, match="part"):
            device.energy(call, 0.1)
    else:
        assert device.energy(call, 0.1) is None
    assert found.samples[-1] == pytest.approx(KERNEL_S * LAUNCHES, rel=0.01)


def test_others_are_seen_before_we_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their share of the GPU's time, in which ours is not."""
    device, _, _ = gpu_of(State(neighbour=0.6), monkeypatch)
    assert device.idle()["gpu_idle_utilisation"] == 0.6


def test_others_are_seen_between_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once our own work has left NVML's reading: what a case did itself is nobody else's."""
    device, _, call = gpu_of(State(neighbour=0.3, neighbour_from_s=5.0), monkeypatch)
    device.start(1)
    timed(device, call)
    assert device.idle()["gpu_idle_utilisation"] == 0
    timed(device, call, dataclasses.replace(RULE, warmup_s=5.0, warmup_cap_s=9.0))
    assert device.idle()["gpu_idle_utilisation"] == 0.3


def test_energy_beside_others_is_not_the_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """They came while it was read: there is none, and the reason."""
    for state, reason in (
        (State(neighbour=0.3, neighbour_from_s=2.0), "others used the GPU for 30%"),
        (State(neighbour_bytes=2**30, neighbour_from_s=2.0), "moved by 1024 MiB"),
    ):
        device, _, call = gpu_of(state, monkeypatch)
        device.start(1)
        with pytest.raises(Unreadable, match=reason):
            device.energy(call, 2.0)


def test_energy_is_power_times_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """From idle, at a clock that rises: what a call takes when it has risen."""
    device, _, call = gpu_of(IDLE, monkeypatch)
    device.start(1)
    found = device.energy(call, 0.1)
    assert found is not None
    assert found.joules == pytest.approx(WATTS * KERNEL_S * LAUNCHES, rel=0.005)
    assert found.ticks is not None
    assert found.ticks >= 99


def test_others_who_come_later_are_seen_by_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they take while a case is timed, however much we take ourselves."""
    state = State(neighbour_bytes=2**30, neighbour_from_s=0.01)
    device, backend, call = gpu_of(state, monkeypatch)
    watch = device.watch()
    backend.allocator.allocate(2**28)
    assert watch.neighbours()["gpu_memory_drift_bytes"] == 0
    timed(device, call)
    assert watch.neighbours()["gpu_memory_drift_bytes"] == 2**30
