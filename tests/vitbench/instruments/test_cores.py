"""Cores: machines as the kernel describes them, written here, and where threads are put on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vitbench.instruments import _cores, host

Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    """Writes a machine's CPUs as (siblings, socket, capacity) and takes some of them for ours."""
    monkeypatch.setattr(_cores, "ROOT", tmp_path)
    now: list[frozenset[int]] = []

    def write(
        *cpus: tuple[str, int, int | None], nodes: int = 1, allowed: str = "", atom: str = ""
    ) -> None:
        for number, (siblings, socket, capacity) in enumerate(cpus):
            folder = tmp_path / f"system/cpu/cpu{number}"
            (folder / "topology").mkdir(parents=True)
            (folder / "topology/thread_siblings_list").write_text(f"{siblings}\n")
            (folder / "topology/physical_package_id").write_text(f"{socket}\n")
            if capacity is not None:
                (folder / "cpu_capacity").write_text(f"{capacity}\n")
        for node in range(nodes):
            (tmp_path / f"system/node/node{node}").mkdir(parents=True)
        if atom:
            (tmp_path / "cpu_atom").mkdir()
            (tmp_path / "cpu_atom/cpus").write_text(f"{atom}\n")
        ours = _cores.listed(allowed) if allowed else range(len(cpus))
        now[:] = [frozenset(ours)]
        _cores.affinity.cache_clear()

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(now[-1]), raising=False)
    monkeypatch.setattr(
        os, "sched_setaffinity", lambda _, cpus: now.append(frozenset(cpus)), raising=False
    )
    yield write
    _cores.affinity.cache_clear()


# Two sockets of 4 cores with two threads each, numbered as Linux does on servers.
SERVER = [(f"{n % 8},{n % 8 + 8}", n % 8 // 4, None) for n in range(16)]
# 4 fast cores with two threads each, neighbours in number, then 4 slow ones.
LAPTOP = [(f"{n - n % 2}-{n - n % 2 + 1}", 0, None) for n in range(8)] + [
    (f"{n}", 0, None) for n in range(8, 12)
]
# A favoured core, three nearly as fast, four slow.
PHONE = [(f"{n}", 0, capacity) for n, capacity in enumerate([1024, 1000, 1000, 1000] + [400] * 4)]
# A virtual machine, whose every CPU says that it is a socket.
VIRTUAL = [(f"{n}", n, None) for n in range(4)]


@pytest.mark.parametrize(
    ("cpus", "options", "threads", "pinned"),
    [
        (SERVER, {"nodes": 2}, 1, "0-3"),
        (SERVER, {"nodes": 2}, 4, "0-3"),
        (SERVER, {"nodes": 2}, 5, "0-7"),
        (SERVER, {"nodes": 2}, 12, "0-11"),
        (SERVER, {"nodes": 2}, 16, None),
        # An outer taskset leaves one core of the first socket, and three of the second.
        (SERVER, {"nodes": 2, "allowed": "0,4-6,12"}, 2, "4-6"),
        (SERVER, {"nodes": 2, "allowed": "8,12-15"}, 3, "12-15"),
        (SERVER, {"nodes": 1}, 2, "0-7"),
        (LAPTOP, {"atom": "8-11"}, 4, "0,2,4,6"),
        (LAPTOP, {"atom": "8-11"}, 6, "0,2,4,6,8-11"),
        (LAPTOP, {"atom": "8-11"}, 9, None),
        (PHONE, {}, 1, "0-3"),
        (PHONE, {}, 5, None),
        (VIRTUAL, {}, 1, None),
    ],
)
def test_where_threads_run(
    machine: Machine,
    cpus: list[tuple[str, int, int | None]],
    options: dict[str, object],
    threads: int,
    pinned: str | None,
) -> None:
    """On physical cores before their second threads, on one socket, on fast cores before slow ones,
    and on none that an outer affinity excludes. None: wherever the process may run."""
    machine(*cpus, **options)
    before = _cores.affinity()
    host.place(threads)
    assert _cores.facts()["pinned_to"] == pinned
    assert _cores.current() <= before
    assert len(_cores.current()) >= threads
    assert _cores.affinity() == before
    host.place(len(before))
    assert _cores.current() == before


def test_as_many_threads_as_the_quota_allows(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Are all that may be used: nothing is pinned. Fewer are."""
    machine(*SERVER, nodes=2)
    monkeypatch.setattr(host, "cpu_quota", lambda: 4.0)
    host.place(4)
    assert _cores.facts()["pinned_to"] is None
    host.place(3)
    assert _cores.facts()["pinned_to"] == "0-3"
    assert host.usable_cores() == 4


def test_what_the_environment_says(machine: Machine) -> None:
    """Of the cores that may be used."""
    machine(*LAPTOP, atom="8-11")
    assert _cores.facts() == {
        "sockets": 1,
        "fast_cores": 4,
        "slow_cores": 4,
        "threads_per_core": 1.5,
        "affinity": "0-11",
        "pinned_to": None,
    }


def test_a_system_that_does_not_tell(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is pinned there, and nothing said; nor where there is no such call (macOS)."""
    machine(*SERVER, nodes=2)
    for file in _cores.ROOT.rglob("thread_siblings_list"):
        file.unlink()
    host.place(1)
    assert _cores.facts() | {"affinity": ""} == {
        **dict.fromkeys(("sockets", "fast_cores", "slow_cores", "threads_per_core")),
        "affinity": "",
        "pinned_to": None,
    }
    for name in ("sched_getaffinity", "sched_setaffinity"):
        monkeypatch.delattr(os, name)
    _cores.affinity.cache_clear()
    host.place(1)
    assert len(_cores.current()) == os.cpu_count()


def test_a_cpuset_that_changes_meanwhile(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses CPUs that are not ours any more: the process stays where it is."""
    machine(*SERVER, nodes=2)

    def refuse(process: int, cpus: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    host.place(1)
    assert _cores.facts()["pinned_to"] is None


@pytest.mark.parametrize("text", ["", "0", "0-3", "0,2,4-6,9"])
def test_lists_of_cpus(text: str) -> None:
    """As the kernel writes and reads them."""
    assert _cores.as_list(_cores.listed(text)) == text


# Takes a machine of two sockets with one core each for this one, runs torch on one thread there,
# and tells where every thread of the process may run.
_REAL = """
import os, sys
from pathlib import Path
from vitbench.instruments import _cores
_cores.ROOT = Path(sys.argv[1])
from vitbench.devices import cpu
device = cpu.Device("cpu")
device.configure(1)
device.ceilings(["float32"], 0.01)
print({frozenset(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")})
device.configure(2)
print(os.sched_getaffinity(0) == _cores.affinity())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or not {0, 1} <= os.sched_getaffinity(0),
    reason="needs two CPUs of Linux",
)
def test_a_process_that_is_pinned(machine: Machine, tmp_path: Path) -> None:
    """All its threads run on the socket, as the kernel has it; with all cores it is free again."""
    machine(("0", 0, None), ("1", 1, None), nodes=2)
    done = subprocess.run(
        ["taskset", "-c", "0,1", sys.executable, "-c", _REAL, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["{frozenset({0})}", "True"]
