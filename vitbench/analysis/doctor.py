"""Is this machine fit to measure on? Findings with their number, limit and remedy. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitbench.analysis import trust

if TYPE_CHECKING:
    from vitbench.instruments.host import HostSnapshot

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


def findings(environment: Mapping[str, Any], host: HostSnapshot) -> list[Finding]:
    """What costs precision here, worst first."""
    cpu, torch = environment["cpu"], environment["torch"]
    every = [
        *_of_neighbours(host),
        *_of_threads(cpu, torch["threads"]),
        *_of_machine(cpu, host),
        *_of_code(environment["code"], torch, host),
        *_of_gpu(environment.get("gpu")),
    ]
    return sorted(every, key=lambda finding: finding.grade or "A", reverse=True)


def expected_grade(every: Sequence[Finding], row: Mapping[str, Any]) -> str:
    """The trust to expect of a run now: of a row just measured, and no better than any finding."""
    return max([str(row["trust"] or "D"), *(finding.grade for finding in every)])


def _graded(column: str, value: float | None, remedy: str) -> Iterator[Finding]:
    """A finding where the trust grade would fall for this reading of a column."""
    (limit,) = (limit for limit in trust.LIMITS if limit.column == column)
    if value is not None and limit.fall(value):
        what = f"{limit.label} {value * limit.scale:.3g}{limit.unit}"
        good = f"at most {limit.b * limit.scale:g}{limit.unit}"
        yield Finding(trust.GRADES[limit.fall(value)], what, good, remedy)


def _of_neighbours(host: HostSnapshot) -> Iterator[Finding]:
    yield from _graded(
        "neighbour_cores",
        host.neighbour_cores,
        "stop what else runs here, or take more rounds (--effort thorough)",
    )
    yield from _graded(
        "steal_share",
        host.steal_share,
        "other guests of this host take its CPU: take more rounds, or a dedicated machine",
    )


def _of_threads(cpu: Mapping[str, Any], threads: int) -> Iterator[Finding]:
    usable, quota = cpu["cores_usable"], cpu["cgroup_quota_cores"]
    physical, logical = cpu["cores_physical"], cpu["cores_logical"]
    if threads > usable:
        yield Finding(
            "C",
            f"{threads} threads on {usable} usable cores",
            "no more threads than cores",
            f"--threads {usable}",
        )
    if quota is not None and quota < threads:
        yield Finding(
            "C",
            f"the cgroup allows {quota:g} cores to {threads} threads, and stops them beyond it",
            "a quota of at least the threads",
            "raise the container's CPU limit to whole cores",
        )
    if physical and physical != logical and physical < threads <= usable:
        yield Finding(
            "",
            f"{threads} threads on {physical} physical cores with two threads each",
            "one thread a physical core",
            f"--threads {physical}",
        )


def _of_machine(cpu: Mapping[str, Any], host: HostSnapshot) -> Iterator[Finding]:
    if cpu["governor"] not in (None, "performance"):
        yield Finding(
            "",
            f"the frequency governor is {cpu['governor']}",
            "performance",
            "cpupower frequency-set --governor performance",
        )
    if cpu["hypervisor"]:
        yield Finding(
            "",
            "this is a virtual machine: its neighbours cannot be seen",
            "a machine of one's own",
            "compare only what was measured in one run, and take more rounds",
        )
    if host.available_memory_bytes < 2 * _GIB:
        yield Finding(
            "C",
            f"{host.available_memory_bytes / _GIB:.1f} GiB of memory are available",
            "at least 2 GiB",
            "free memory, or smaller batches: what swaps is not measured",
        )
    if host.swap_used_bytes >= _GIB / 4:
        yield Finding(
            "",
            f"{host.swap_used_bytes / _GIB:.1f} GiB are swapped out",
            "at most 0.25 GiB",
            "free memory, then swapoff and swapon",
        )
    if host.disk_free_bytes < _GIB / 4:
        yield Finding(
            "",
            f"{host.disk_free_bytes / 2**20:.0f} MiB are free on the disk for reports",
            "at least 256 MiB",
            "make room, or write elsewhere with --out",
        )


def _of_code(
    code: Mapping[str, Any] | None, torch: Mapping[str, Any], host: HostSnapshot
) -> Iterator[Finding]:
    if code and code["dirty"]:
        yield Finding(
            "",
            f"the code differs from commit {code['commit'][:10]}, which the run will name",
            "what is measured is committed",
            "git commit, then measure",
        )
    if host.nvidia_device and torch["cuda"] is None:
        yield Finding(
            "",
            "an NVIDIA driver is here, and this torch is built without CUDA",
            "a build of torch with CUDA",
            "install one, or --device cpu to leave the GPU alone",
        )


def _of_gpu(gpu: Mapping[str, Any] | None) -> Iterator[Finding]:
    if gpu is None:
        return
    if "nvml" in gpu:
        yield Finding(
            "",
            gpu["nvml"],
            "clocks, temperature and power can be read",
            "install NVIDIA's driver library in this container",
        )
        return
    yield from _of_idle_gpu(gpu["idle"], gpu["memory_bytes"])
    limit, usual = gpu["power_limit_w"], gpu["power_default_w"]
    if gpu["persistence_mode"] == 0:
        yield Finding(
            "",
            "persistence mode is off: the driver is loaded anew for each process",
            "on",
            "nvidia-smi --persistence-mode=1 (as root)",
        )
    if limit is not None and usual is not None and limit < usual:
        yield Finding(
            "",
            f"the power limit is {limit:.0f} W",
            f"the board's {usual:.0f} W",
            f"nvidia-smi --power-limit={usual:.0f} (as root), or name the limit beside the figures",
        )
    if gpu["mig_mode"]:
        yield Finding(
            "",
            "the GPU is divided (MIG): a part of it is measured",
            "the whole GPU",
            "name the part beside the figures",
        )


def _of_idle_gpu(idle: Mapping[str, Any], memory_bytes: int) -> Iterator[Finding]:
    yield from _graded(
        "gpu_idle_utilisation", idle["utilisation"], "stop what else runs on the GPU"
    )
    if idle["bad_reasons"]:
        yield Finding(
            "C",
            f"the GPU lowers its clock: {', '.join(idle['bad_reasons'])}",
            "full clocks",
            "cool it, or raise its power limit",
        )
    if idle["free_bytes"] is not None and idle["free_bytes"] < 0.9 * memory_bytes:
        yield Finding(
            "",
            f"{idle['free_bytes'] / memory_bytes:.0%} of the GPU's memory is free",
            "at least 90%",
            "stop what else holds memory there",
        )
