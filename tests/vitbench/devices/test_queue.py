"""The clock of a device with a launch queue, against a simulated one whose times are known."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulated.queue import VirtualQueue
from vitbench.devices._queue import Clock

LAUNCHES = (1, 2, 20, 60, 500, 1000, 1023, 1024, 1025, 3000, 20_000)
KERNELS_S = (1e-6, 3e-6, 4e-6, 2e-5, 1e-3)


def steady_s(queue: VirtualQueue, launches: int, kernel_s: float) -> float:
    """What a call takes when many are queued one behind another: the slower of host and device."""
    return launches * max(queue.launch_s, kernel_s)


@pytest.mark.parametrize(("launches", "kernel_s"), [*itertools.product(LAUNCHES, KERNELS_S)])
def test_both_times_are_true_or_marked(launches: int, kernel_s: float) -> None:
    """The device's own time within 1%, or none; the steady state within 1% of the slower of host
    and device over a sample that is long enough to hide how it starts and ends."""
    queue = VirtualQueue()
    clock, call = Clock(queue), queue.call_of([kernel_s] * launches)
    calls = max(1, round(2e-3 / steady_s(queue, launches, kernel_s)))
    for _ in range(3):
        reading = clock.read(call, calls)
        if reading.device_s is not None:
            assert reading.device_s == pytest.approx(launches * kernel_s, rel=0.01)
    # The last kernel ends after its launch, and the wait is a call of the driver.
    ends = queue.call_s + queue.launch_s + kernel_s
    expected = calls * steady_s(queue, launches, kernel_s)
    assert expected * 0.99 <= reading.latency_s * calls <= expected * 1.01 + ends
    if launches <= 500:
        assert reading.device_s is not None


@pytest.mark.parametrize("launches", [1, 20, 500])
def test_a_call_that_waits_for_the_device_has_no_device_time(launches: int) -> None:
    """As one that asks for a value: what it waits for is the work that was to hide the gaps."""
    queue = VirtualQueue()
    reading = Clock(queue).read(queue.call_of([2e-6] * launches, waits=True), 10)
    assert reading.device_s is None
    assert reading.latency_s >= launches * queue.launch_s


@given(st.floats(0.05, 20.0), st.integers(1, 400), st.floats(5e-7, 1e-4))
def test_work_that_is_shorter_than_asked_for(rate: float, launches: int, kernel_s: float) -> None:
    """A rate that was learnt at another clock: the time is true all the same, or there is none."""
    queue = VirtualQueue(rate=rate)
    clock, call = Clock(queue), queue.call_of([kernel_s] * launches)
    times_s = [clock.read(call, 5).device_s for _ in range(3)]
    known = [time_s for time_s in times_s if time_s is not None]
    assert known == pytest.approx([launches * kernel_s] * len(known), rel=0.01)
    assert known or rate < 0.3


def test_caches_are_flushed_before_each_reading() -> None:
    """Outside both times."""
    queue = VirtualQueue()
    clock = Clock(queue, flush=lambda: queue.launch(5e-3))
    reading = clock.read(queue.call_of([1e-4] * 10), 1)
    assert reading.device_s == pytest.approx(1e-3, rel=0.01)
    assert reading.latency_s == pytest.approx(1e-3, rel=0.02)
