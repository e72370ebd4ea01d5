"""The host's own readings around a stretch of work: CPU time, switches, steal, neighbours."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from vitbench.instruments import _cores

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment] # so typed where the module is always there


@dataclass(frozen=True, slots=True)
class HostReading:
    """Counters at one moment; a field the platform does not tell is None.

    busy_s, steal_s, total_s  all cores together, since boot
    busy_here_s               the cores that this process may use
    """

    wall_s: float
    own_s: float
    involuntary: int | None
    busy_s: float | None
    busy_here_s: float | None
    steal_s: float | None
    total_s: float | None
    throttled_s: float | None


def resident_bytes() -> int:
    """What the process holds of the memory now."""
    return int(psutil.Process().memory_info().rss)


def highest_resident_bytes(work: Callable[[], object]) -> int | None:
    """The process's highest resident set (VmHWM) during some work, where /proc shows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    work()
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    match = re.search(r"^VmHWM:\s*(\d+)", status, re.MULTILINE)
    return None if match is None else int(match[1]) * 1024


def read() -> HostReading:
    """The counters now."""
    usage = None if resource is None else resource.getrusage(resource.RUSAGE_SELF)
    return HostReading(
        wall_s=time.perf_counter(),
        own_s=time.process_time(),
        involuntary=None if usage is None else usage.ru_nivcsw,
        **_machine_seconds(),
        throttled_s=_cgroup_throttled_s(),
    )


def between(start: HostReading, end: HostReading, threads: int) -> dict[str, Any]:
    """What happened between two readings, as columns of a record."""
    wall_s = max(end.wall_s - start.wall_s, 1e-9)
    own_s = end.own_s - start.own_s
    state: dict[str, Any] = {
        "cpu_share": own_s / wall_s / threads,
        "involuntary_switches": None,
        "neighbour_cores": None,
        "contended_cores": None,
        "steal_share": None,
        "cgroup_throttled_s": None,
    }
    if start.involuntary is not None and end.involuntary is not None:
        state["involuntary_switches"] = (end.involuntary - start.involuntary) / wall_s
    # The kernel's counters tick 100 times a second: below 0.2 s they say nothing.
    if start.busy_here_s is not None and end.busy_here_s is not None and wall_s >= 0.2:
        others = max(0.0, (end.busy_here_s - start.busy_here_s - own_s) / wall_s)
        state["contended_cores"] = max(0.0, threads + others - len(_cores.current()))
    if start.busy_s is not None and end.busy_s is not None:
        if wall_s >= 0.2:
            state["neighbour_cores"] = max(0.0, (end.busy_s - start.busy_s - own_s) / wall_s)
        total_s = (end.total_s or 0.0) - (start.total_s or 0.0)
        if total_s > 0 and start.steal_s is not None and end.steal_s is not None:
            state["steal_share"] = (end.steal_s - start.steal_s) / total_s
    if start.throttled_s is not None and end.throttled_s is not None:
        state["cgroup_throttled_s"] = end.throttled_s - start.throttled_s
    return state


def apart(spans: Sequence[tuple[HostReading, HostReading]]) -> tuple[HostReading, HostReading]:
    """Several spans as one: what happened in them, without what happened between them."""

    def total(name: str) -> tuple[Any, Any]:
        ends = [(getattr(start, name), getattr(end, name)) for start, end in spans]
        if any(value is None for pair in ends for value in pair):
            return None, None
        return 0, sum(end - start for start, end in ends)

    fields = dataclasses.fields(HostReading)
    first, last = zip(*(total(field.name) for field in fields), strict=True)
    return HostReading(*first), HostReading(*last)


# What psutil's times of a core may hold beside the time that a process had it.
_NOT_BUSY = ("idle", "iowait", "steal", "guest", "guest_nice")


def _machine_seconds() -> dict[str, float | None]:
    """Seconds since boot by the name of the field; None where the platform does not tell."""
    try:
        cores = [times._asdict() for times in psutil.cpu_times(percpu=True)]
    except (OSError, RuntimeError):  # no /proc in this container, or another form of it
        return dict.fromkeys(("busy_s", "busy_here_s", "steal_s", "total_s"))
    busy = [sum(s for name, s in core.items() if name not in _NOT_BUSY) for core in cores]
    steal_s = sum(core.get("steal", 0.0) for core in cores)
    idle_s = sum(core["idle"] + core.get("iowait", 0.0) for core in cores)
    # Where some CPU is off line, the place in the list is not the CPU's number.
    here = _cores.current()
    is_numbered = len(cores) == os.cpu_count() and max(here) < len(cores)
    return {
        "busy_s": sum(busy),
        "busy_here_s": sum(busy[number] for number in here) if is_numbered else None,
        "steal_s": steal_s if all("steal" in core for core in cores) else None,
        "total_s": sum(busy) + idle_s + steal_s,
    }


def _cgroup_throttled_s() -> float | None:
    """Time that this cgroup's CPU quota held processes back (cgroup v2)."""
    text = _text("/sys/fs/cgroup/cpu.stat") or ""
    match = re.search(r"^throttled_usec (\d+)", text, re.MULTILINE)
    return None if match is None else int(match[1]) / 1e6


def cpu_quota() -> float | None:
    """Cores that the cgroup allows; None for no limit."""
    match = re.fullmatch(r"(\d+) (\d+)", _text("/sys/fs/cgroup/cpu.max") or "")
    return None if match is None else int(match[1]) / int(match[2])


def available_memory_bytes() -> int:
    """Memory that can be had without swapping: the machine's, or what the cgroup leaves of it."""
    available = int(psutil.virtual_memory().available)
    limit, used = (_text(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit is None or used is None or limit == "max":
        return available
    return max(0, min(available, int(limit) - int(used)))


def limits_memory() -> bool:
    """Whether the system holds a process to a limit of its memory. macOS takes one, and lets the
    process have more."""
    return platform.system() == "Linux"


def limit_memory(nbytes: int) -> None:
    """Limits this process for the rest of its life, to no more than its parent may have."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    nbytes = nbytes if most == resource.RLIM_INFINITY else min(nbytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (nbytes, nbytes))


def usable_cores() -> int:
    """Cores that this process may use: the smaller of its affinity and its cgroup's quota."""
    cores, quota = len(_cores.affinity()), cpu_quota()
    return max(1, min(cores, int(quota))) if quota is not None else cores


def place(threads: int) -> None:
    """Pins this process where it computes on fewer cores than it may use (see _cores.placement);
    else all that it may use are its own again."""
    _cores.pin(threads if threads < usable_cores() else len(_cores.affinity()))


# Those that add products of 8-bit numbers into 32 bits at once, as Linux names them. Without them a
# CPU with AVX2 does so in two steps, of which the first overflows at 16 bits.
_INT8 = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def sums_products_exactly() -> bool | None:
    """Whether the CPU adds products of 8-bit numbers without an overflow on the way; None where the
    system does not say which instructions it has."""
    instructions = cpu_facts()["int8_instructions"]
    return None if instructions is None else bool(instructions)


def cpu_facts() -> dict[str, Any]:
    """The CPU's model, cores and which of them are used, instruction sets, governor and quota."""
    flags = _cpuinfo("flags") or _cpuinfo("Features") or ""
    wide = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
    int8 = [name for name in _INT8 if name in flags.split()]
    return {
        "model": _model(),
        "architecture": platform.machine(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(),
        "cores_usable": usable_cores(),
        "cgroup_quota_cores": cpu_quota(),
        "instruction_sets": [name for name in wide if name in flags.split()],
        "int8_instructions": int8 if flags else None,
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "turbo_disabled": _text("/sys/devices/system/cpu/intel_pstate/no_turbo"),
        "hypervisor": "hypervisor" in flags.split(),
        **_cores.facts(),
    }


def _model() -> str:
    """The CPU's name. Linux on ARM has none, but the numbers of its maker and design."""
    part = _cpuinfo("CPU part")
    return (
        _cpuinfo("model name")
        or (part and f"{platform.machine()} {_cpuinfo('CPU implementer')} part {part}")
        or _sysctl("machdep.cpu.brand_string")
        or platform.processor()
        or platform.machine()
    )


def _sysctl(name: str) -> str | None:
    """A fact of macOS."""
    if platform.system() != "Darwin":
        return None
    try:
        done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _cpuinfo(key: str) -> str | None:
    match = re.search(rf"^{key}\s*:(.*)", _text("/proc/cpuinfo") or "", re.MULTILINE)
    return None if match is None else match[1].strip()


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """What the machine does while we do nothing.

    neighbour_cores  busy cores of other processes; None where the platform does not tell
    contended_cores  those that our threads would have to share
    """

    neighbour_cores: float | None
    contended_cores: float | None
    steal_share: float | None
    load: float
    available_memory_bytes: int
    swap_used_bytes: int
    disk_free_bytes: int


def watch(folder: Path, threads: int, seconds: float = 1.0) -> HostSnapshot:
    """Reads the machine before a run of so many threads; `folder` is where runs are written."""
    start = read()
    time.sleep(seconds)
    state = between(start, read(), threads)
    disk = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return HostSnapshot(
        neighbour_cores=state["neighbour_cores"],
        contended_cores=state["contended_cores"],
        steal_share=state["steal_share"],
        load=psutil.getloadavg()[0],
        available_memory_bytes=available_memory_bytes(),
        swap_used_bytes=int(psutil.swap_memory().used),
        disk_free_bytes=int(psutil.disk_usage(str(disk)).free),
    )
