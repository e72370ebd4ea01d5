"""Is this machine fit to measure on? Findings with their number, limit and remedy. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from vitbench.analysis import trust
from vitbench.instruments import host

_WATCH_S = 1.0
_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that costs precision.

    grade   the best trust that a row can get while it lasts; "" where it only deserves a look
    what    the number, in words
    limit   what would be good
    remedy  what to do
    """

    grade: str
    what: str
    limit: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Live:
    """What the machine does now, watched for a second while we do nothing.

    neighbour_cores  busy cores of other processes; None where the platform does not tell
    """

    neighbour_cores: float | None
    steal_share: float | None
    load: float
    available_memory_bytes: int
    swap_used_bytes: int
    disk_free_bytes: int
    nvidia_device: bool


def watch(folder: Path, seconds: float = _WATCH_S) -> Live:
    """Reads the machine; `folder` is where runs are written."""
    start = host.read()
    time.sleep(seconds)
    state = host.between(start, host.read(), threads=1)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return Live(
        neighbour_cores=state["neighbour_cores"],
        steal_share=state["steal_share"],
        load=psutil.getloadavg()[0],
        available_memory_bytes=host.available_memory_bytes(),
        swap_used_bytes=int(psutil.swap_memory().used),
        disk_free_bytes=int(psutil.disk_usage(str(there)).free),
        nvidia_device=Path("/proc/driver/nvidia").exists(),
    )


def findings(environment: Mapping[str, Any], live: Live) -> list[Finding]:
    """What costs precision here, worst first."""
    found = [*_of_host(environment, live), *_of_code(environment, live), *_of_gpu(environment)]
    return sorted(found, key=lambda one: one.grade or "A", reverse=True)


def _graded(column: str, value: float | None, remedy: str) -> list[Finding]:
    """A finding where the trust grade would fall for this reading of a column."""
    (limit,) = (limit for limit in trust.LIMITS if limit.column == column)
    if value is None or not limit.fall(value):
        return []
    grade = trust.GRADES[limit.fall(value)]
    good = f"at most {limit.b * limit.scale:g}{limit.unit}"
    return [Finding(grade, f"{limit.words} {value * limit.scale:.3g}{limit.unit}", good, remedy)]


def _of_host(environment: Mapping[str, Any], live: Live) -> list[Finding]:
    cpu, threads = environment["cpu"], environment["torch"]["threads"]
    found = _graded(
        "neighbour_cores",
        live.neighbour_cores,
        "stop what else runs here, or take more rounds (--effort thorough)",
    )
    found += _graded(
        "steal_share",
        live.steal_share,
        "other guests of this host take its CPU: take more rounds, or a dedicated machine",
    )
    found += [finding for check in _HOST_CHECKS if (finding := check(cpu, threads, live))]
    return found


def _threads(cpu: Mapping[str, Any], threads: int, live: Live) -> Finding | None:
    if threads <= cpu["cores_usable"]:
        return None
    return Finding(
        "C",
        f"{threads} threads on {cpu['cores_usable']} usable cores",
        "no more threads than cores",
        f"--threads {cpu['cores_usable']}",
    )


def _quota(cpu: Mapping[str, Any], threads: int, live: Live) -> Finding | None:
    quota = cpu["cgroup_quota_cores"]
    if quota is None or quota >= threads:
        return None
    return Finding(
        "C",
        f"the cgroup allows {quota:g} cores to {threads} threads, and stops them beyond it",
        "a quota of at least the threads",
        "raise the container's CPU limit to whole cores",
    )


def _hyperthreads(cpu: Mapping[str, Any], threads: int, live: Live) -> Finding | None:
    physical, logical = cpu["cores_physical"], cpu["cores_logical"]
    if not physical or physical == logical or not physical < threads <= cpu["cores_usable"]:
        return None
    return Finding(
        "",
        f"{threads} threads on {physical} physical cores with two threads each",
        "one thread a physical core",
        f"--threads {physical}",
    )


def _governor(cpu: Mapping[str, Any], threads: int, live: Live) -> Finding | None:
    if cpu["governor"] in (None, "performance"):
        return None
    return Finding(
        "",
        f"the frequency governor is {cpu['governor']}",
        "performance",
        "cpupower frequency-set --governor performance",
    )


def _hypervisor(cpu: Mapping[str, Any], threads: int, live: Live) -> Finding | None:
    if not cpu["hypervisor"]:
        return None
    return Finding(
        "",
        "this is a virtual machine: its neighbours cannot be seen",
        "a machine of one's own",
        "compare only what was measured in one run, and take more rounds",
    )


def _memory(cpu: Mapping[str, Any], threads: int, live: Live) -> Finding | None:
    if live.available_memory_bytes >= 2 * _GIB:
        return None
    return Finding(
        "C",
        f"{live.available_memory_bytes / _GIB:.1f} GiB of memory are available",
        "at least 2 GiB",
        "free memory, or smaller batches: what swaps is not measured",
    )


def _swap(cpu: Mapping[str, Any], threads: int, live: Live) -> Finding | None:
    if live.swap_used_bytes < _GIB / 4:
        return None
    return Finding(
        "",
        f"{live.swap_used_bytes / _GIB:.1f} GiB are swapped out",
        "at most 0.25 GiB",
        "free memory, then swapoff and swapon",
    )


def _disk(cpu: Mapping[str, Any], threads: int, live: Live) -> Finding | None:
    if live.disk_free_bytes >= _GIB / 4:
        return None
    return Finding(
        "",
        f"{live.disk_free_bytes / 2**20:.0f} MiB are free on the disk for reports",
        "at least 256 MiB",
        "make room, or write elsewhere with --out",
    )


_HOST_CHECKS: tuple[Callable[[Mapping[str, Any], int, Live], Finding | None], ...] = (
    _threads,
    _quota,
    _hyperthreads,
    _governor,
    _hypervisor,
    _memory,
    _swap,
    _disk,
)


def _of_code(environment: Mapping[str, Any], live: Live) -> list[Finding]:
    found = []
    if environment["code"] and environment["code"]["dirty"]:
        commit = environment["code"]["commit"][:10]
        found.append(
            Finding(
                "",
                f"the code differs from commit {commit}, which the run will name",
                "what is measured is committed",
                "git commit, then measure",
            )
        )
    if live.nvidia_device and environment["torch"]["cuda"] is None:
        found.append(
            Finding(
                "",
                "an NVIDIA driver is here, and this torch is built without CUDA",
                "a build of torch with CUDA",
                "install one, or --device cpu to leave the GPU alone",
            )
        )
    return found


def _of_gpu(environment: Mapping[str, Any]) -> list[Finding]:
    board = environment.get("gpu")
    if board is None:
        return []
    if "nvml" in board:
        return [
            Finding(
                "",
                board["nvml"],
                "clocks, temperature and power can be read",
                "install NVIDIA's driver library in this container",
            )
        ]
    idle = board["idle"]
    found = _graded("gpu_idle_utilisation", idle["utilisation"], "stop what else runs on the GPU")
    found += [finding for check in _GPU_CHECKS if (finding := check(board, idle))]
    return found


def _throttled(board: Mapping[str, Any], idle: Mapping[str, Any]) -> Finding | None:
    if not idle["bad_reasons"]:
        return None
    return Finding(
        "C",
        f"the GPU lowers its clock: {', '.join(idle['bad_reasons'])}",
        "full clocks",
        "cool it, or raise its power limit",
    )


def _gpu_memory(board: Mapping[str, Any], idle: Mapping[str, Any]) -> Finding | None:
    if idle["free_bytes"] is None or idle["free_bytes"] >= 0.9 * board["memory_bytes"]:
        return None
    return Finding(
        "",
        f"{idle['free_bytes'] / board['memory_bytes']:.0%} of the GPU's memory is free",
        "at least 90%",
        "stop what else holds memory there",
    )


def _persistence(board: Mapping[str, Any], idle: Mapping[str, Any]) -> Finding | None:
    if board["persistence_mode"] != 0:
        return None
    return Finding(
        "",
        "persistence mode is off: the driver is loaded anew for each process",
        "on",
        "nvidia-smi --persistence-mode=1 (as root)",
    )


def _power(board: Mapping[str, Any], idle: Mapping[str, Any]) -> Finding | None:
    limit, usual = board["power_limit_w"], board["power_default_w"]
    if limit is None or usual is None or limit >= usual:
        return None
    return Finding(
        "",
        f"the power limit is {limit:.0f} W",
        f"the board's {usual:.0f} W",
        f"nvidia-smi --power-limit={usual:.0f} (as root), or name the limit beside the figures",
    )


def _mig(board: Mapping[str, Any], idle: Mapping[str, Any]) -> Finding | None:
    if not board["mig_mode"]:
        return None
    return Finding(
        "",
        "the GPU is divided (MIG): a part of it is measured",
        "the whole GPU",
        "name the part beside the figures",
    )


_GPU_CHECKS: tuple[Callable[[Mapping[str, Any], Mapping[str, Any]], Finding | None], ...] = (
    _throttled,
    _gpu_memory,
    _persistence,
    _power,
    _mig,
)


def expected_grade(found: list[Finding], row: Mapping[str, Any]) -> str:
    """The trust to expect of a run now: of a row just measured, and no better than any finding."""
    return max([str(row["trust"] or "D"), *(one.grade for one in found)])
