"""The host's counters: differences by hand, and files of /proc that are absent or odd."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from vitbench.instruments import host
from vitbench.instruments.host import HostReading

START = HostReading(
    wall_s=100.0,
    own_s=10.0,
    involuntary=5,
    busy_s=1000.0,
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


QUIET = {
    "cpu_share": 0.0,
    "involuntary_switches": 0.0,
    "neighbour_cores": 0.0,
    "steal_share": 0.0,
    "cgroup_throttled_s": 0.0,
}
UNKNOWN = {"neighbour_cores": None, "steal_share": None, "cgroup_throttled_s": None}


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
            {"cpu_share": 0.5, "neighbour_cores": None},
        ),
        # Our own seconds are exact and those of the machine are ticks: the difference may dip.
        ({"wall_s": 1, "own_s": 1.01, "busy_s": 1, "total_s": 2}, {"cpu_share": 0.505}),
        # No time between two readings divides by nothing.
        ({}, {"neighbour_cores": None, "steal_share": None}),
        # Without /proc and cgroups nothing is known of neighbours, steal and quota.
        (
            {"wall_s": 1, "own_s": 1, "busy_s": None, "total_s": None, "throttled_s": None},
            {"cpu_share": 0.5} | UNKNOWN,
        ),
    ],
)
def test_differences_by_hand(passed: dict[str, Any], state: dict[str, Any]) -> None:
    """What happened between two readings, for two threads."""
    found = host.between(START, after(**passed), threads=2)
    assert found == pytest.approx(QUIET | state)


def test_machine_seconds(files: dict[str, str]) -> None:
    """The first line of /proc/stat: guests are in user already, waiting is idle."""
    files["/proc/stat"] = "cpu  100 10 20 1000 50 3 7 40 99 99\ncpu0 1 2 3\n"
    reading = host.read()
    ticks = os.sysconf("SC_CLK_TCK")
    assert reading.busy_s == pytest.approx(140 / ticks)
    assert reading.steal_s == pytest.approx(40 / ticks)
    assert reading.total_s == pytest.approx((140 + 1050 + 40) / ticks)


def test_throttling_of_the_cgroup(files: dict[str, str]) -> None:
    """Microseconds of the whole cgroup become seconds. A platform without /proc has the process's
    own counters."""
    bare = host.read()
    assert (bare.busy_s, bare.steal_s, bare.total_s, bare.throttled_s) == (None, None, None, None)
    assert bare.own_s > 0
    files["/sys/fs/cgroup/cpu.stat"] = "usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n"
    assert host.read().throttled_s == 2.5
    files["/sys/fs/cgroup/cpu.stat"] = "usage_usec 5\n"
    assert host.read().throttled_s is None


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
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
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
