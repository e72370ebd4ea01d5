"""The state of a GPU, with stand-ins for the GPU, its queue and the host's clock."""

from __future__ import annotations

import dataclasses
import os
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

from tests.simulated.queue import VirtualQueue
from vitbench.devices import Energy, Unreadable, _gpu, _nvml, _queue, _tegra, cuda

QUIET = _nvml.GpuState(
    sm_clock_hz=1_400_000_000,
    max_sm_clock_hz=1_980_000_000,
    temperature_c=60,
    power_w=300.0,
    throttle=0,
    free_bytes=1000,
    thermal_s=5.0,
    power_cap_s=7.0,
    energy_j=100.0,
    utilisation=0.0,
)


class Time:
    """A clock that only sleep moves."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """In place of the host's."""
    found = Time()
    monkeypatch.setattr(_gpu, "time", found)
    return found


class Gpu:
    """A GPU whose state the test sets: the next of `coming`, then `now`."""

    is_part = False

    def __init__(self, *coming: _nvml.GpuState) -> None:
        self.coming, self.now = list(coming), QUIET
        self.pids: frozenset[int] | None = frozenset()

    def state(self) -> _nvml.GpuState:
        return self.coming.pop(0) if self.coming else self.now

    def set(self, **changes: Any) -> None:
        self.now = dataclasses.replace(self.now, **changes)

    def facts(self) -> dict[str, Any]:
        return {}

    def compute_mode(self) -> str | None:
        return None

    def processes(self) -> frozenset[int] | None:
        return self.pids


# Watching


@pytest.mark.parametrize(("free_bytes", "drift"), [(800, 0), (750, 50), (None, None)])
def test_memory_that_others_take(free_bytes: int | None, drift: int | None) -> None:
    """What we take ourselves is no drift; what others take is."""
    reserved, gpu = iter((100, 300)), Gpu()
    watch = _gpu.GpuWatch(gpu, lambda: next(reserved))
    gpu.set(free_bytes=free_bytes)
    assert watch.neighbours().get("gpu_memory_drift_bytes") == drift


def test_the_worst_reading_counts(time: Time) -> None:
    """The lowest clock and its spread, the highest temperature, every reason for a low clock; of
    the counters what was added over all readings."""
    gpu = Gpu()
    watch = _gpu.GpuWatch(gpu, lambda: 0)
    assert watch.read is not None
    assert watch.columns([]) == {}
    time.sleep(1.0)
    gpu.set(energy_j=400.0, power_cap_s=7.5)
    readings = [watch.read()]
    assert not watch.is_suspect(readings[0])
    time.sleep(3.0)
    gpu.set(sm_clock_hz=10**9, temperature_c=None, throttle=0x4C, thermal_s=6.0, energy_j=500.0)
    readings.append(watch.read())
    assert watch.is_suspect(readings[1])
    assert watch.columns(readings) == {
        "sm_clock_hz": 10**9,
        "sm_clock_spread": pytest.approx(0.4),
        "temperature_c": 60,
        "power_w": 100.0,
        "throttle_reasons": ["hardware slowdown", "thermal slowdown (hardware)"],
        "throttled_share": 0.25,
        "power_capped_share": 0.125,
    }


def test_power_without_a_counter_of_energy(time: Time) -> None:
    """The mean of the readings; what was not counted is empty, not zero."""
    gpu = Gpu()
    gpu.set(energy_j=None, thermal_s=None)
    watch = _gpu.GpuWatch(gpu, lambda: 0)
    readings = []
    for power_w in (100.0, 400.0):
        time.sleep(1.0)
        gpu.set(power_w=power_w)
        readings.append(watch._read())
    columns = watch.columns(readings)
    assert (columns["power_w"], columns["throttled_share"]) == (250.0, None)


def test_heat_between_readings_is_suspect(time: Time) -> None:
    """A GPU that is cool again when it is read was held down before, by its counter; the power
    limit is none of that, nor what was counted before a restart."""
    gpu = Gpu()
    watch = _gpu.GpuWatch(gpu, lambda: 0)
    time.sleep(1.0)
    gpu.set(power_cap_s=8.0)
    assert not watch.is_suspect(watch._read())
    time.sleep(1.0)
    gpu.set(thermal_s=5.1)
    assert watch.is_suspect(watch._read())
    gpu.set(thermal_s=6.0)
    watch.restart()
    time.sleep(1.0)
    assert not watch.is_suspect(watch._read())


@pytest.mark.parametrize(("hot", "waited_s"), [(0, 0.1), (5, 0.6), (1000, 3.1)])
def test_it_cools_down(time: Time, hot: int, waited_s: float) -> None:
    """Until the reason is gone, and no longer than three seconds."""
    gpu = Gpu()
    watch = _gpu.GpuWatch(gpu, lambda: 0)
    gpu.coming = [dataclasses.replace(QUIET, throttle=0x40)] * hot
    watch.cool_down()
    assert time.now_s == pytest.approx(waited_s, abs=0.11)


# Neighbours


def busy(*shares: float | None) -> list[_nvml.GpuState]:
    return [dataclasses.replace(QUIET, utilisation=share) for share in shares]


@pytest.mark.parametrize(
    ("shares", "was_used", "found", "waited_s"),
    [
        ((0.6, 0.0), False, 0.6, 0.0),  # nobody but others can have done it
        ((0.9, 0.5, 0.01, 0.7), True, 0.01, 0.2),  # our own work fades
        ((0.9,) * 99, True, 0.9, 1.2),
        ((None,), True, None, 0.0),
    ],
)
def test_what_others_do_between_cases(
    time: Time, shares: tuple[float | None, ...], was_used: bool, found: float, waited_s: float
) -> None:
    """Our own work is waited for until it has left NVML's reading, for a little over a second."""
    columns = _gpu.idle(Gpu(*busy(*shares)), was_used=was_used)
    assert columns["gpu_idle_utilisation"] == found
    assert time.now_s == pytest.approx(waited_s, abs=0.11)


def test_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are no workers of our runner; unknown where NVML does not list them, or gives ids
    that mean nothing here."""
    gpu, parents = Gpu(), {os.getpid(): os.getppid(), 7: os.getppid(), 8: 1, 9: 1}

    class Process:
        def __init__(self, pid: int) -> None:
            if pid not in parents:
                raise psutil.NoSuchProcess(pid)
            self.pid = pid

        def ppid(self) -> int:
            return parents[self.pid]

    monkeypatch.setattr(psutil, "Process", Process)
    for pids, count in (
        (frozenset[int](), 0),
        (frozenset({os.getpid(), 7}), 0),
        (frozenset({os.getpid(), 7, 8, 9}), 2),
        (frozenset({os.getpid(), 99}), None),
        (None, None),
    ):
        gpu.pids = pids
        assert _gpu.idle(gpu, was_used=False)["gpu_processes"] == count


# Which GPU


@pytest.mark.parametrize(
    ("visible", "index", "identity"),
    [
        (None, 0, "GPU-1234"),
        ("GPU-1234", 0, "GPU-1234"),
        ("MIG-aa, MIG-bb", 1, "MIG-bb"),
        ("MIG-GPU-1234/1/0", 0, "MIG-GPU-1234/1/0"),
        ("MIG-aa", 1, "GPU-1234"),
        ("0,1", 1, "GPU-1234"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "GPU-"])
def test_a_part_is_asked_for_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch, prefix: str, visible: str | None, index: int, identity: str
) -> None:
    """CUDA_VISIBLE_DEVICES may name parts of a GPU, which torch calls as if they were whole."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    properties = SimpleNamespace(uuid=f"{prefix}1234")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert _gpu.identity(torch.device("cuda", index)) == identity


def test_an_amd_gpu_has_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of NVML there."""
    monkeypatch.setattr(torch.version, "hip", "7.1")
    with pytest.raises(Unreadable, match="AMD GPU"):
        _gpu.find(torch.device("cuda:0"))


@pytest.mark.parametrize(
    ("hip", "l2_bytes", "cache_bytes"),
    [(None, 50 * 2**20, 50 * 2**20), ("7.1", 4 * 2**20, 2**28), ("7.1", 2**29, 2**29)],
)
def test_the_last_cache(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, l2_bytes: int, cache_bytes: int
) -> None:
    """Behind AMD's L2 lies the Infinity Cache, 256 MiB on MI300, of which torch does not tell."""
    monkeypatch.setattr(torch.version, "hip", hip)
    properties = SimpleNamespace(L2_cache_size=l2_bytes)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert cuda.Device("cuda").cache_bytes() == cache_bytes


def test_a_jetson(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Its clock, load and temperature, in SI units, as Linux shows them; without a clock it cannot
    be read."""
    monkeypatch.setattr(_tegra, "ROOT", tmp_path)
    with pytest.raises(Unreadable, match="no clock"):
        _tegra.Gpu()
    for path, text in {
        "class/devfreq/17000000.gpu/cur_freq": "612000000\n",
        "class/devfreq/17000000.gpu/max_freq": "1300500000\n",
        "class/devfreq/15340000.vic/cur_freq": "1\n",
        "class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "class/thermal/thermal_zone0/temp": "70000\n",
        "class/thermal/thermal_zone1/type": "gpu-thermal\n",
        "class/thermal/thermal_zone1/temp": "48500\n",
        "devices/platform/gpu.0/load": "375\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    expected = _nvml.GpuState(
        sm_clock_hz=612_000_000, max_sm_clock_hz=1_300_500_000, temperature_c=48, utilisation=0.375
    )
    assert _tegra.Gpu().state() == expected


# Energy


class Board(Gpu):
    """A GPU that takes 300 W while it computes and 100 W else, and whose counter moves every
    `tick_s`, by the time of its queue."""

    def __init__(self, queue: VirtualQueue, tick_s: float = 0.1) -> None:
        super().__init__()
        self.queue, self.tick_s, self.busy_s = queue, tick_s, 0.0

    def state(self) -> _nvml.GpuState:
        self.queue.host_s += 1e-3  # a reading takes a while
        at_s = self.queue.host_s // self.tick_s * self.tick_s
        return dataclasses.replace(QUIET, energy_j=300.0 * at_s)


def energy_of(board: Gpu, queue: VirtualQueue, kernels_s: list[float]) -> Energy:
    return _gpu.energy(queue.call_of(kernels_s), 0.5, board, _queue.Clock(queue), queue)


@pytest.mark.parametrize("kernels_s", [[1e-4] * 3, [2e-2], [1e-5] * 20])
@pytest.mark.parametrize("tick_s", [0.02, 0.1, 0.15])
def test_energy_of_a_call(kernels_s: list[float], tick_s: float) -> None:
    """From one step of the counter to another, of at least 2 s and 20 steps: within 0.5% of power
    times time, whatever a call or a step takes, since reading the counter leaves no gap."""
    queue = VirtualQueue()
    found = energy_of(Board(queue, tick_s), queue, kernels_s)
    assert found.joules == pytest.approx(300.0 * sum(kernels_s), rel=0.005)
    assert found.ticks is not None
    assert found.ticks >= max(20, int(2.0 / tick_s) - 1)
    assert found.busy_share == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("kernels_s", "tick_s", "changes", "reason"),
    [
        ([1e-6] * 50, 0.1, {}, "waits for the host"),
        ([1e-3], 9.0, {}, "moved 1 times in 10 s"),
        ([1e-3], 0.1, {"is_part": True}, "part .MIG. is measured"),
    ],
)
def test_energy_that_is_not_the_calls(
    kernels_s: list[float], tick_s: float, changes: dict[str, Any], reason: str
) -> None:
    """A GPU that waits for the host, a counter that hardly moves, a part of a GPU: the reason."""
    queue = VirtualQueue()
    board = Board(queue, tick_s)
    for name, value in changes.items():
        setattr(board, name, value)
    with pytest.raises(Unreadable, match=reason):
        energy_of(board, queue, kernels_s)


def test_a_gpu_without_a_counter() -> None:
    """It says so."""
    gpu, queue = Gpu(), VirtualQueue()
    gpu.set(energy_j=None)
    with pytest.raises(Unreadable, match="does not count"):
        energy_of(gpu, queue, [1e-3])


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({}, ""),
        ({"gpu_idle_utilisation": None, "gpu_processes": None}, ""),
        ({"gpu_idle_utilisation": 0.3}, "used the GPU for 30%"),
        ({"gpu_processes": 2}, "other processes are on the GPU: 2"),
        ({"gpu_memory_drift_bytes": 2**28}, "moved by 256 MiB"),
    ],
)
def test_energy_beside_others(columns: dict[str, Any], reason: str) -> None:
    """Theirs is in the counter too."""
    quiet = {"gpu_idle_utilisation": 0.0, "gpu_processes": 0}
    if not reason:
        _gpu.check_alone(quiet | columns)
    else:
        with pytest.raises(Unreadable, match=reason):
            _gpu.check_alone(quiet | columns)


def test_energy_where_the_state_is_not_read_any_more() -> None:
    """Nobody knows then who took it."""
    with pytest.raises(Unreadable, match="could not be read any more"):
        _gpu.check_alone({})
