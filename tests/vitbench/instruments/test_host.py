"""The host's counters: differences by hand, and files of /proc that are absent or odd."""

from __future__ import annotations

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
    """A later reading: what passed on each counter."""
    fields = {name: getattr(START, name) for name in HostReading.__dataclass_fields__}
    return HostReading(**{name: value + seconds.get(name, 0) for name, value in fields.items()})


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


def test_differences_by_hand() -> None:
    """Two threads at work for 2 s on a machine whose neighbours use half a core."""
    end = after(wall_s=2.0, own_s=4.0, involuntary=6, busy_s=5.0, steal_s=0.2, total_s=8.0)
    assert host.between(START, end, threads=2) == pytest.approx(
        {
            "cpu_share": 1.0,
            "involuntary_switches": 3.0,
            "neighbour_cores": 0.5,
            "steal_share": 0.025,
            "cgroup_throttled_s": 0.0,
        }
    )


def test_short_stretches_say_nothing_of_neighbours() -> None:
    """The kernel ticks 100 times a second: below 0.2 s the count is noise."""
    end = after(wall_s=0.1, own_s=0.1, busy_s=0.5, total_s=0.4)
    assert host.between(START, end, threads=1)["neighbour_cores"] is None


def test_neighbours_are_never_negative() -> None:
    """Our own seconds are exact and those of the machine are ticks; their difference may dip."""
    end = after(wall_s=1.0, own_s=1.01, busy_s=1.0, total_s=2.0)
    assert host.between(START, end, threads=1)["neighbour_cores"] == 0.0


def test_what_the_platform_does_not_tell_is_none() -> None:
    """Without /proc and cgroups the row says nothing of neighbours, steal and quota."""
    bare = HostReading(0.0, 0.0, 0, None, None, None, None)
    later = HostReading(1.0, 0.5, 0, None, None, None, None)
    state = host.between(bare, later, threads=1)
    assert state["cpu_share"] == 0.5
    assert [state[name] for name in ("neighbour_cores", "steal_share", "cgroup_throttled_s")] == [
        None
    ] * 3


def test_two_readings_at_one_moment() -> None:
    """No time between them divides by nothing."""
    state = host.between(START, START, threads=4)
    assert state["cpu_share"] == 0.0
    assert state["steal_share"] is None


def test_machine_seconds(files: dict[str, str]) -> None:
    """The first line of /proc/stat: guests are in user already, waiting is idle."""
    files["/proc/stat"] = "cpu  100 10 20 1000 50 3 7 40 99 99\ncpu0 1 2 3\n"
    reading = host.read()
    ticks = os.sysconf("SC_CLK_TCK")
    assert reading.busy_s == pytest.approx(140 / ticks)
    assert reading.steal_s == pytest.approx(40 / ticks)
    assert reading.total_s == pytest.approx((140 + 1050 + 40) / ticks)
    assert reading.throttled_s is None


def test_without_proc(files: dict[str, str]) -> None:
    """A platform without /proc has the process's own counters."""
    reading = host.read()
    assert (reading.busy_s, reading.steal_s, reading.total_s) == (None, None, None)
    assert reading.own_s > 0


def test_throttling_of_the_cgroup(files: dict[str, str]) -> None:
    """Microseconds of the whole cgroup become seconds."""
    files["/sys/fs/cgroup/cpu.stat"] = "usage_usec 5\nnr_throttled 3\nthrottled_usec 2500000\n"
    assert host.read().throttled_s == 2.5
    files["/sys/fs/cgroup/cpu.stat"] = "usage_usec 5\n"
    assert host.read().throttled_s is None


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("150000 100000\n", 1.5), ("50000 100000", 0.5), ("odd", None)],
)
def test_quota(files: dict[str, str], text: str, cores: float | None) -> None:
    """The cgroup's quota in cores; `max` is none."""
    files["/sys/fs/cgroup/cpu.max"] = text
    assert host.cpu_quota() == cores


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8)]
)
def test_usable_cores(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch, text: str, cores: int
) -> None:
    """The smaller of affinity and quota, at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    files["/sys/fs/cgroup/cpu.max"] = text
    assert host.usable_cores() == cores


def test_readings_of_this_machine_grow() -> None:
    """Counters never run backwards."""
    first = host.read()
    time.sleep(0.02)
    second = host.read()
    assert second.wall_s > first.wall_s
    assert second.own_s >= first.own_s
    assert (second.busy_s or 0) >= (first.busy_s or 0)
    busy = host.busy_cores(0.05)
    assert busy is None or busy >= 0


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
