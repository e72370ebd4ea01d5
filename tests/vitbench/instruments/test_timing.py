"""Time: warm-up, sampling and the stopping rule, with a clock whose latencies are scripted."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitbench.analysis import stats
from vitbench.devices import Call, Reading, Watch, cpu, cuda
from vitbench.instruments import timing
from vitbench.instruments.timing import Timing, TimingRule

RULE = TimingRule()


class ScriptedClock:
    """A clock on which call number n takes latency(n) seconds, and nothing else takes any.

    reads      what `read` gave, in order
    own_s      the device's own time, where it has one
    """

    def __init__(self, latency: Callable[[int], float], own_s: float | None = None) -> None:
        self.latency = latency
        self.time = 100.0
        self.calls = 0
        self.reads: list[float] = []
        self.calls_per_read: list[int] = []
        self.own_s = own_s

    def _run(self, call: Call, calls: int) -> float:
        start = self.time
        for _ in range(calls):
            call()
            self.time += self.latency(self.calls)
            self.calls += 1
        return (self.time - start) / calls

    def read(self, call: Call, calls: int) -> Reading:
        seconds = self._run(call, calls)
        self.reads.append(seconds)
        self.calls_per_read.append(calls)
        return Reading(seconds, self.own_s)

    def latency_s(self, call: Call, calls: int) -> float:
        return self._run(call, calls)

    def device_s(self, call: Call, calls: int) -> float | None:
        return self.own_s

    def now(self) -> float:
        return self.time


def nothing() -> None:
    """A call that costs what the clock says."""


def measure(clock: ScriptedClock, rule: TimingRule = RULE, **options: Any) -> Timing:
    """What the engine makes of the scripted latencies."""
    return timing.measure(nothing, clock, rule, **options)


def noisy(spread: float, seed: int = 0, centre: float = 0.01) -> Callable[[int], float]:
    """Latencies that are uniform within `spread` of the centre."""
    rng = random.Random(seed)
    return lambda _: centre * (1 + spread * rng.uniform(-1, 1))


@given(st.floats(1e-6, 2.0))
def test_a_quiet_machine(latency: float) -> None:
    """Constant latencies: that latency, no noise, no more time than the rule's least. The warm-up
    takes at least so many calls and so long, however well its blocks agree."""
    clock = ScriptedClock(lambda _: latency)
    found = measure(clock)
    assert stats.median(found.samples) == pytest.approx(latency)
    assert found.first_call_s == pytest.approx(latency)
    assert found.warmup_calls >= 2
    if latency * 20 < RULE.cap_s:
        assert found.stopped_by == "noise"
        assert found.warmup_calls >= RULE.warmup_calls
        assert found.warmup_s >= RULE.warmup_s


def test_warm_up_waits_until_blocks_agree() -> None:
    """Latencies that fall by 5% a call are warm when the fall is over, and not a sample before."""
    rule = dataclasses.replace(RULE, warmup_s=0.0, warmup_cap_s=1000.0)
    found = measure(ScriptedClock(lambda n: 0.1 * max(0.95**n, 0.95**40)), rule)
    assert found.warmup_calls >= 39
    assert max(found.samples) == pytest.approx(0.1 * 0.95**40)


class ScriptedWatch(Watch):
    """A device that is slowed down during its first chunks; `asked` is how often it was read."""

    def __init__(self, slowed_chunks: int = 0, reading: Callable[[], Any] = lambda: None) -> None:
        self.asked = 0
        self.slowed_chunks = slowed_chunks
        self.reading = reading
        self.read = self._read

    def _read(self) -> dict[str, Any]:
        self.asked += 1
        return {"slowed": self.asked <= self.slowed_chunks, "reading": self.reading()}

    def is_suspect(self, reading: Mapping[str, Any]) -> bool:
        return bool(reading["slowed"])


@pytest.mark.parametrize("bad", [0, 1, 3])
def test_a_suspect_chunk_is_taken_again(bad: int) -> None:
    """Its samples are replaced, and the readings kept are those of the samples kept."""
    clock = ScriptedClock(noisy(0.001), own_s=0.004)
    found = measure(clock, watch=ScriptedWatch(bad))
    assert found.retries == bad
    assert not any(state["slowed"] for state in found.chunks)
    assert found.samples == clock.reads[-len(found.samples) :]
    assert len(found.samples) == len(found.device_samples) >= RULE.min_samples


def test_a_device_cools_down_and_is_warm_again() -> None:
    """Before samples are taken again there are a pause and a warm-up, which are no part of the
    sampling's time; the next reading begins after them."""
    clock = ScriptedClock(lambda _: 0.01)
    starts: list[tuple[float, int]] = []

    class HotWatch(ScriptedWatch):
        def cool_down(self) -> None:
            clock.time += 30.0

        def restart(self) -> None:
            starts.append((clock.time, clock.calls))

    rule = dataclasses.replace(RULE, warmup_s=0.5, cap_s=2.0)
    found = measure(clock, rule, watch=HotWatch(1))
    (first_s, first), (again_s, again) = starts
    assert again_s - first_s > 30.5
    assert again - first >= RULE.min_samples + 50
    assert found.stopped_by == "noise"
    assert len(found.samples) >= RULE.min_samples


def test_what_stays_suspect_is_kept_and_told() -> None:
    """After three times the samples stand, and the readings beside them say so."""
    watch = ScriptedWatch(10**9)
    found = measure(ScriptedClock(noisy(0.001)), watch=watch)
    assert found.retries == timing.MAX_RETRIES
    assert all(state["slowed"] for state in found.chunks)
    assert watch.asked == len(found.chunks) + timing.MAX_RETRIES
    assert len(found.samples) >= RULE.min_samples


def test_warm_up_is_capped() -> None:
    """Blocks that never agree end at the cap, by one block at most."""
    rule = dataclasses.replace(RULE, warmup_s=0.0, warmup_cap_s=3.0)
    found = measure(ScriptedClock(lambda n: 0.1 * (1 + n % 2)), rule)
    assert 3.0 <= found.warmup_s <= 3.0 + 0.2


def test_the_first_call_is_apart() -> None:
    """Compilation of 9 s is the first call's and enters neither the warm-up nor a sample."""
    found = measure(ScriptedClock(lambda n: 9.0 if n == 0 else 0.01))
    assert found.first_call_s == 9.0
    assert found.warmup_s < 1.0
    assert max(found.samples) == pytest.approx(0.01)


@given(st.floats(1e-6, 0.1), st.sampled_from([0.001, 0.01]))
def test_a_sample_lasts_long_enough(latency: float, sample_s: float) -> None:
    """Calls are repeated inside a sample until it is as long as the rule says, and not twice."""
    rule = dataclasses.replace(RULE, sample_s=sample_s)
    clock = ScriptedClock(lambda _: latency)
    found = measure(clock, rule)
    assert set(clock.calls_per_read) == {found.calls_per_sample}
    duration = found.calls_per_sample * latency
    assert duration >= sample_s * (1 - 1e-6)
    assert found.calls_per_sample == 1 or duration <= sample_s + 2 * latency


def test_a_sample_lasts_long_enough_on_the_device() -> None:
    """Where the host takes ten times as long to launch a call as the device to compute it."""
    rule = dataclasses.replace(RULE, sample_s=0.001)
    found = measure(ScriptedClock(lambda _: 5e-5, own_s=5e-6), rule)
    assert 0.001 <= found.calls_per_sample * 5e-6 <= 0.001 + 2 * 5e-6


def test_a_cold_call_stands_alone() -> None:
    """max_calls=1: each sample is one call, so that each is preceded by a flush."""
    clock = ScriptedClock(lambda _: 1e-4, own_s=1e-5)
    found = measure(clock, max_calls=1)
    assert found.calls_per_sample == 1
    assert set(clock.calls_per_read) == {1}


@given(st.integers(1, 200), st.floats(0.0, 2.0))
def test_at_least_so_many_samples_and_so_long(min_samples: int, min_s: float) -> None:
    """Even where there is no noise at all."""
    rule = dataclasses.replace(RULE, min_samples=min_samples, min_s=min_s, cap_s=100.0)
    found = measure(ScriptedClock(lambda _: 0.01), rule)
    assert found.stopped_by == "noise"
    assert len(found.samples) >= min_samples
    assert sum(found.samples) * found.calls_per_sample >= min_s * (1 - 1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_sampling_goes_on_to_the_target(seed: int) -> None:
    """Noise of 30% is sampled down to 1%, with more samples than a quiet case takes."""
    rule = dataclasses.replace(RULE, cap_s=1e6)
    found = measure(ScriptedClock(noisy(0.3, seed)), rule)
    assert found.stopped_by == "noise"
    assert stats.noise(found.samples) <= rule.target_noise
    assert len(found.samples) > 100


def test_sampling_is_capped() -> None:
    """A target out of reach ends at the cap, by one sample at most, and says so."""
    rule = dataclasses.replace(RULE, target_noise=1e-9, cap_s=2.0)
    found = measure(ScriptedClock(noisy(0.5)), rule)
    assert found.stopped_by == "cap"
    spent = sum(found.samples) * found.calls_per_sample
    assert 2.0 <= spent <= 2.0 + max(found.samples) * found.calls_per_sample


def test_a_call_that_outlasts_the_cap() -> None:
    """Ten seconds a call under a cap of five: so many samples as an interval needs, no more."""
    found = measure(ScriptedClock(lambda _: 10.0))
    assert len(found.samples) == RULE.cap_samples
    assert found.stopped_by == "cap"
    assert found.calls_per_sample == 1


@given(st.integers(0, 1000), st.floats(0.0, 0.9))
def test_every_sample_is_kept(seed: int, spread: float) -> None:
    """In the order taken, outliers too. First call, warm-up and samples account for every call."""
    rng = random.Random(seed)
    clock = ScriptedClock(
        lambda _: 0.05 * (1 + spread * rng.random()) * (10 if rng.random() < 0.02 else 1)
    )
    found = measure(clock)
    assert found.samples == clock.reads
    assert found.device_samples == []
    assert clock.calls == 1 + found.warmup_calls + len(found.samples) * found.calls_per_sample


def test_the_devices_own_time_is_beside_each_sample() -> None:
    """Where the clock reads one."""
    found = measure(ScriptedClock(lambda _: 0.02, own_s=0.01))
    assert found.device_samples == [0.01] * len(found.samples)


def test_the_machine_is_read_between_chunks() -> None:
    """The watch reads after every chunk, the last too, and its readings are kept."""
    clock = ScriptedClock(noisy(0.3))
    watch = ScriptedWatch(reading=lambda: len(clock.reads))
    found = measure(clock, dataclasses.replace(RULE, cap_s=1e6), watch=watch)
    taken = [chunk["reading"] for chunk in found.chunks]
    assert watch.asked == len(taken)
    assert taken[-1] == len(found.samples)
    assert taken == sorted(set(taken))
    assert taken[0] == RULE.min_samples


def test_cpu_clock_flushes_before_each_sample() -> None:
    """Flush, then the calls; the average is of one call, and the device has no time of its own."""
    events: list[str] = []
    clock = cpu.Clock(flush=lambda: events.append("flush"))
    reading = clock.read(lambda: events.append("call"), 3)
    assert events == ["flush", "call", "call", "call"]
    assert reading.device_s is None
    assert reading.latency_s > 0
    before = clock.now()
    assert clock.now() >= before


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TimingRule)])
def test_a_rule_that_never_ends_is_refused(name: str) -> None:
    """Negative, zero, NaN and infinite values raise with the field's name."""
    values: tuple[Any, ...] = (-1.0, float("nan"), float("inf"))
    if isinstance(getattr(RULE, name), int):
        values = (0, -1)
    for value in values:
        with pytest.raises(ValueError, match=name):
            TimingRule(**{name: value})
    with pytest.raises(ValueError, match="target_noise"):
        TimingRule(target_noise=0.0)


@pytest.mark.cuda
def test_cuda_clock_agrees_with_a_sleeping_kernel() -> None:
    """A kernel that sleeps twice as long takes more device time, and a host that dawdles none."""
    import torch

    clock = cuda.Device("cuda").clock()

    def least(cycles: int) -> float:
        call = functools.partial(torch.cuda._sleep, cycles)
        return min(clock.read(call, 5).device_s or 0.0 for _ in range(5))

    assert 1.5 < least(1_000_000) / least(500_000) < 2.5
