"""The cores that this process may use: sockets, hardware threads, fast and slow cores; pinning."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/sys/devices")


@dataclass(frozen=True, slots=True)
class Cpu:
    """A logical CPU, by the kernel's number.

    core    the logical CPUs of its physical core, as the kernel writes them
    socket  0 for all where memory is equally far from every core, as in most virtual machines
    speed   in quarters of the fastest core: 4, and less for a slow kind
    """

    number: int
    core: str
    socket: int = 0
    speed: int = 4


@functools.cache
def affinity() -> frozenset[int]:
    """The CPUs that this process could use when it was first asked, before it pinned itself: an
    outer `taskset` and a container's cpuset count."""
    known = hasattr(os, "sched_getaffinity")
    return frozenset(os.sched_getaffinity(0) if known else range(os.cpu_count() or 1))


def current() -> frozenset[int]:
    """The CPUs that this thread may run on now."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return affinity()


def cpus() -> list[Cpu]:
    """Those of `affinity`; none where the system does not describe them."""
    numbers = sorted(affinity())
    topology = {number: ROOT / f"system/cpu/cpu{number}/topology" for number in numbers}
    cores = {number: _text(topology[number] / "thread_siblings_list") for number in numbers}
    if not all(cores.values()):
        return []
    sockets = dict.fromkeys(numbers, 0)
    if len([*ROOT.glob("system/node/node[0-9]*")]) > 1:
        texts = {n: _text(topology[n] / "physical_package_id") or "0" for n in numbers}
        sockets = {number: int(text) for number, text in texts.items()}
    speeds = _speeds(numbers)
    return [Cpu(n, cores[n], sockets[n], speeds[n]) for n in numbers]


def _speeds(numbers: Sequence[int]) -> dict[int, int]:
    """By the kernel's cpu_capacity, or by Intel's list of its slow cores."""
    texts = {n: _text(ROOT / f"system/cpu/cpu{n}/cpu_capacity") for n in numbers}
    if all(text.isdecimal() for text in texts.values()):
        top = max(int(text) for text in texts.values())
        return {number: round(4 * int(text) / top) for number, text in texts.items()}
    slow = set(listed(_text(ROOT / "cpu_atom/cpus")))
    return {number: 2 if number in slow else 4 for number in numbers}


def listed(text: str) -> list[int]:
    """The numbers of `0-3,8`, as the kernel writes lists of CPUs."""
    ends = (part.partition("-") for part in text.split(",") if part)
    return [n for first, _, last in ends for n in range(int(first), int(last or first) + 1)]


def as_list(numbers: Iterable[int]) -> str:
    """The inverse of `listed`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def placement(threads: int, known: Sequence[Cpu]) -> frozenset[int]:
    """The CPUs for so many threads, at least as many: physical cores before their second hardware
    threads, one socket before another, fast cores before slow ones.

    A kind is taken whole. Inside it the kernel moves a thread away from a core that another process
    takes; tied to one core each, the threads would wait for it.
    """
    cores: defaultdict[str, list[int]] = defaultdict(list)
    for cpu in known:
        cores[cpu.core].append(cpu.number)
    sizes = Counter(cpu.socket for cpu in known)
    kinds: defaultdict[tuple[int, int, int, int], list[int]] = defaultdict(list)
    for cpu in known:
        sibling = cores[cpu.core].index(cpu.number)
        kinds[sibling, -sizes[cpu.socket], cpu.socket, -cpu.speed].append(cpu.number)
    taken: list[int] = []
    for kind in sorted(kinds):
        if len(taken) < threads:
            taken += kinds[kind]
    return frozenset(taken)


def pin(threads: int) -> None:
    """Keeps this thread, and those that it starts from now on, on the CPUs for so many threads; on
    all that could be used before where the system does not say more, or has no such call."""
    target = placement(threads, cpus())
    if len(target) < threads:
        target = affinity()
    if hasattr(os, "sched_setaffinity") and current() != target:
        with contextlib.suppress(OSError):  # the container's cpuset was changed meanwhile
            os.sched_setaffinity(0, target)


def facts() -> dict[str, Any]:
    """What there is to use, and what is used; None where the system does not tell."""
    known = cpus()
    speeds = {cpu.core: cpu.speed for cpu in known}
    slow = sum(speed < max(speeds.values()) for speed in speeds.values())
    now = current()
    return {
        "sockets": len({cpu.socket for cpu in known}) or None,
        "fast_cores": len(speeds) - slow if known else None,
        "slow_cores": slow if known else None,
        "threads_per_core": len(known) / len(speeds) if known else None,
        "affinity": as_list(affinity()),
        "pinned_to": None if now == affinity() else as_list(now),
    }
