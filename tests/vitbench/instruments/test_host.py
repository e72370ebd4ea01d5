"""The host's counters: differences by hand, and files of /proc that are absent or odd."""

from __future__ import annotations

import dataclasses
import os
import platform
import resource
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest

from vitbench.instruments import _cores, host
from vitbench.instruments.host import HostReading

START = HostReading(
    wall_s=100.0,
    own_s=10.0,
    involuntary=5,
    busy_s=1000.0,
    busy_here_s=1000.0,
    steal_s=50.0,
    total_s=4000.0,
    throttled_s=1.0,
)


def after(**seconds: Any) -> HostReading:
    """A later reading: what passed on each counter; None where it cannot be read."""
    fields = dataclasses.asdict(START)
    for name, passed in seconds.items():
        fields[name] = None if passed is None else fields[name] + passed
    return HostReading(**fields)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The files of /proc and /sys as host sees them; what is not here does not exist."""
    texts: dict[str, str] = {}

    def path(name: str) -> Path:
        place = tmp_path / name.replace("/", "_")
        if name in texts:
            place.write_text(texts[name])
        return place

    monkeypatch.setattr(host, "Path", path)
    return texts


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may run on two."""
    monkeypatch.setattr(_cores, "current", lambda: frozenset({0, 1}))


QUIET = {
    "cpu_share": 0.0,
    "involuntary_switches": 0.0,
    "neighbour_cores": 0.0,
    "contended_cores": 0.0,
    "steal_share": 0.0,
    "cgroup_throttled_s": 0.0,
}
UNKNOWN = dict.fromkeys(("neighbour_cores", "contended_cores", "steal_share", "cgroup_throttled_s"))


@pytest.mark.parametrize(
    ("passed", "state"),
    [
        # Two threads at work for 2 s on a machine whose neighbours use half a core.
        (
            {"wall_s": 2, "own_s": 4, "involuntary": 6, "busy_s": 5, "steal_s": 0.2, "total_s": 8},
            {
                "cpu_share": 1.0,
                "involuntary_switches": 3.0,
                "neighbour_cores": 0.5,
                "steal_share": 0.025,
            },
        ),
        # The kernel ticks 100 times a second: below 0.2 s the count is noise.
        (
            {"wall_s": 0.1, "own_s": 0.1, "busy_s": 0.5, "total_s": 0.4},
            {"cpu_share": 0.5, "neighbour_cores": None, "contended_cores": None},
        ),
        # Our own seconds are exact and those of the machine are ticks: the difference may dip.
        ({"wall_s": 1, "own_s": 1.01, "busy_s": 1, "total_s": 2}, {"cpu_share": 0.505}),
        # No time between two readings divides by nothing.
        ({}, {"neighbour_cores": None, "contended_cores": None, "steal_share": None}),
        # Others keep half a core of ours busy, and two cores that this process may not use.
        (
            {"wall_s": 2, "own_s": 3, "busy_s": 8, "busy_here_s": 4, "total_s": 16},
            {"cpu_share": 0.75, "neighbour_cores": 2.5, "contended_cores": 0.5},
        ),
        # macOS and Windows: no steal, and no count of switches on the latter.
        (
            {"wall_s": 1, "own_s": 2, "busy_s": 2, "busy_here_s": 2, "total_s": 4}
            | {"steal_s": None, "involuntary": None},
            {"cpu_share": 1.0, "steal_share": None, "involuntary_switches": None},
        ),
        # Without /proc and cgroups nothing is known of neighbours, steal and quota.
        (
            {"wall_s": 1, "own_s": 1, "busy_s": None, "total_s": None, "throttled_s": None}
            | {"busy_here_s": None},
            {"cpu_share": 0.5} | UNKNOWN,
        ),
    ],
)
def test_differences_by_hand(passed: dict[str, Any], state: dict[str, Any]) -> None:
    """What happened between two readings, for two threads."""
    found = host.between(START, after(**passed), threads=2)
    assert found == pytest.approx(QUIET | state)


Linux = namedtuple("Linux", "user nice system idle iowait irq softirq steal guest guest_nice")
MacOS = namedtuple("MacOS", "user nice system idle")
ABSENT = {"busy_s": None, "busy_here_s": None, "steal_s": None, "total_s": None}


@pytest.mark.parametrize(
    ("cores", "seconds"),
    [
        # Guests are in user already; waiting is idle. The third core is not ours.
        (
            [Linux(100, 10, 20, 500, 50, 3, 7, 40, 99, 1)] * 2 + [Linux(1, 0, 0, *[0] * 7)],
            {"busy_s": 281, "busy_here_s": 280, "steal_s": 80, "total_s": 281 + 1100 + 80},
        ),
        (
            [MacOS(100, 0, 20, 50)] * 3,
            {"busy_s": 360, "busy_here_s": 240, "steal_s": None, "total_s": 510},
        ),
        # A CPU is off line: the fourth line need not be the fourth CPU.
        (
            [MacOS(1, 0, 1, 0)] * 4,
            {"busy_s": 8, "busy_here_s": None, "steal_s": None, "total_s": 8},
        ),
        (FileNotFoundError(2, "No such file or directory"), ABSENT),
    ],
)
def test_machine_seconds(
    monkeypatch: pytest.MonkeyPatch, cores: Any, seconds: dict[str, float | None]
) -> None:
    """Sums over the cores of the machine and over ours, from what psutil has on each system."""

    def cpu_times(*, percpu: bool) -> Any:
        assert percpu
        if isinstance(cores, OSError):
            raise cores
        return cores

    monkeypatch.setattr(psutil, "cpu_times", cpu_times)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    reading = dataclasses.asdict(host.read())
    assert {name: reading[name] for name in ABSENT} == seconds


def test_throttling_of_the_cgroup(files: dict[str, str]) -> None:
    """Microseconds of the whole cgroup become seconds."""
    assert host.read().throttled_s is None
    files["/sys/fs/cgroup/cpu.stat"] = "usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n"
    assert host.read().throttled_s == 2.5
    files["/sys/fs/cgroup/cpu.stat"] = "usage_usec 5\n"
    assert host.read().throttled_s is None


def test_without_the_resource_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has none: switches are unknown, CPU time is not."""
    monkeypatch.setattr(host, "resource", None)
    assert host.read().involuntary is None
    assert host.read().own_s > 0


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("model name\t: AMD EPYC\nflags\t: avx2\n", "AMD EPYC"),
        ("CPU implementer\t: 0x41\nCPU part\t: 0xd40\n", f"{platform.machine()} 0x41 part 0xd40"),
        ("", platform.processor() or platform.machine()),
    ],
)
def test_the_name_of_a_cpu(files: dict[str, str], cpuinfo: str, model: str) -> None:
    """Linux on ARM names maker and design by number."""
    files["/proc/cpuinfo"] = cpuinfo
    assert host.cpu_facts()["model"] == model


@pytest.mark.parametrize(
    ("text", "quota", "usable"),
    [
        ("max 100000\n", None, 8),
        ("150000 100000\n", 1.5, 1),
        ("250000 100000", 2.5, 2),
        ("50000 100000", 0.5, 1),
        ("odd", None, 8),
        ("", None, 8),
    ],
)
def test_usable_cores(
    files: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    quota: float | None,
    usable: int,
) -> None:
    """The smaller of affinity and the cgroup's quota, at least one; `max` is no quota."""
    monkeypatch.setattr(_cores, "affinity", lambda: frozenset(range(8)))
    files["/sys/fs/cgroup/cpu.max"] = text
    assert host.cpu_quota() == quota
    assert host.usable_cores() == usable


def test_readings_of_this_machine_grow() -> None:
    """Counters never run backwards."""
    first = host.read()
    time.sleep(0.02)
    second = host.read()
    assert second.wall_s > first.wall_s
    assert second.own_s >= first.own_s
    assert (second.busy_s or 0) >= (first.busy_s or 0)


def test_memory_that_can_be_had(files: dict[str, str]) -> None:
    """What the machine has available, or what the cgroup's limit leaves, if that is less."""
    free = host.available_memory_bytes()
    assert 0 < free <= psutil.virtual_memory().total
    files["/sys/fs/cgroup/memory.max"] = "max\n"
    files["/sys/fs/cgroup/memory.current"] = "1000\n"
    assert host.available_memory_bytes() > 1000
    files["/sys/fs/cgroup/memory.max"] = "5000\n"
    assert host.available_memory_bytes() == 4000
    files["/sys/fs/cgroup/memory.current"] = "6000\n"
    assert host.available_memory_bytes() == 0


@pytest.mark.parametrize(
    ("most", "limit"), [(resource.RLIM_INFINITY, 3 * 2**30), (2**40, 3 * 2**30), (2**30, 2**30)]
)
def test_a_limit_of_memory(monkeypatch: pytest.MonkeyPatch, most: int, limit: int) -> None:
    """The one that is asked for, or the lower one under which vitbench was started (`ulimit`)."""
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (most, most))
    monkeypatch.setattr(resource, "setrlimit", lambda what, ends: limits.append((what, ends)))
    host.limit_memory(3 * 2**30)
    assert limits == [(resource.RLIMIT_DATA, (limit, limit))]
