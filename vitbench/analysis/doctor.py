"""Is this machine fit to measure on? Findings with their number, limit and remedy. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitbench import devices
from vitbench.analysis import trust

if TYPE_CHECKING:
    from vitbench.instruments.host import HostSnapshot

_GIB = 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that costs precision.

    what    the number, in words
    limit   what would be good
    remedy  what to do
    grade   the best trust that a row can get while it lasts; "" where it only deserves a look
    """

    what: str
    limit: str
    remedy: str
    grade: str = ""


def findings(environment: Mapping[str, Any], host: HostSnapshot) -> list[Finding]:
    """What costs precision here, worst first."""
    cpu, torch = environment["cpu"], environment["torch"]
    every = [
        *_of_neighbours(host, torch["threads"]),
        *_of_threads(cpu, torch["threads"]),
        *_of_machine(cpu, host),
        *_of_code(environment["code"]),
        *_of_unused_devices(environment["unused_devices"]),
        *_of_gpu(environment.get("gpu"), str(environment.get("platform"))),
        *_of_energy(environment.get("energy")),
    ]
    return sorted(every, key=lambda finding: finding.grade or "A", reverse=True)


def expected_grade(every: Sequence[Finding], row: Mapping[str, Any]) -> str:
    """The trust to expect of a run now: of a row just measured, and no better than any finding."""
    return max([str(row["trust"] or "D"), *(finding.grade for finding in every)])


# As their makers write them.
_INT8_NAMES = {
    "avx_vnni": "AVX-VNNI",
    "avx512_vnni": "AVX512-VNNI",
    "amx_int8": "AMX-INT8",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
}


def int8(environment: Mapping[str, Any]) -> str:
    """What the CPU's instructions for 8-bit numbers mean for int8, in a sentence; "" where the
    environment is of another device, or of a release that did not ask for them."""
    if environment.get("device", devices.host()) != devices.host():
        return ""
    try:
        instructions = environment["cpu"]["int8_instructions"]
    except KeyError:
        return ""
    if instructions is None:
        return (
            "this system does not name the CPU's instructions for 8-bit numbers: weights keep 7 "
            "bits, and only a run shows what int8 gains"
        )
    if not instructions:
        return (
            "the CPU has no instructions for sums of 8-bit products (VNNI, AMX-INT8, dotprod, "
            "i8mm): weights keep 7 bits, and int8 gains little over float32"
        )
    names = ", ".join(_INT8_NAMES.get(name, name) for name in instructions)
    return (
        f"the CPU sums 8-bit products exactly in one instruction ({names}): weights keep 8 bits, "
        "and int8 may be twice as fast as float32"
    )


def _graded(column: str, value: float | None, remedy: str) -> Iterator[Finding]:
    """A finding where the trust grade would fall for this reading of a column."""
    (limit,) = (limit for limit in trust.LIMITS if limit.column == column)
    if value is not None and limit.fall(value):
        what = f"{limit.label} {value * limit.scale:.3g}{limit.unit}"
        good = f"at most {limit.b * limit.scale:g}{limit.unit}"
        yield Finding(what, good, remedy, trust.GRADES[limit.fall(value)])


def _of_neighbours(host: HostSnapshot, threads: int) -> Iterator[Finding]:
    remedy = "stop what else runs here, or take more rounds (--effort thorough)"
    yield from _graded("neighbour_cores", host.neighbour_cores, remedy)
    # One thread fewer for each core that others take; a machine of one core has none to spare.
    fewer = max(1, threads - math.ceil(host.contended_cores or 0))
    leave = f", or leave it a core: --threads {fewer}" if fewer < threads else ""
    remedy = f"every parallel region waits for a thread without a core: stop the others{leave}"
    yield from _graded("contended_cores", host.contended_cores, remedy)
    remedy = "other guests of this host take its CPU: take more rounds, or a dedicated machine"
    yield from _graded("steal_share", host.steal_share, remedy)


def _of_threads(cpu: Mapping[str, Any], threads: int) -> Iterator[Finding]:
    usable, quota = cpu["cores_usable"], cpu["cgroup_quota_cores"]
    physical, logical = cpu["cores_physical"], cpu["cores_logical"]
    if threads > usable:
        what = f"{threads} threads on {usable} usable cores"
        yield Finding(what, "no more threads than cores", f"--threads {usable}", "C")
    if quota is not None and quota < threads:
        what = f"the cgroup allows {quota:g} cores to {threads} threads, and stops them beyond it"
        remedy = "raise the container's CPU limit to whole cores"
        yield Finding(what, "a quota of at least the threads", remedy, "C")
    if physical and physical != logical and physical < threads <= usable:
        what = f"{threads} threads on {physical} physical cores with two threads each"
        yield Finding(what, "one thread a physical core", f"--threads {physical}")
    if not cpu["fast_cores"]:  # the system does not say how its cores differ
        return
    fast, slow, sockets = cpu["fast_cores"], cpu["slow_cores"], cpu["sockets"]
    if slow and fast < threads <= usable:
        what = f"{threads} threads on {fast} fast and {slow} slow cores: the fast wait for the slow"
        yield Finding(what, "cores of one kind", f"--threads {fast}")
    if sockets > 1 and fast + slow < threads * sockets <= usable * sockets:
        what = f"{threads} threads on {sockets} sockets, each with a memory of its own"
        yield Finding(what, "cores of one socket", f"--threads {(fast + slow) // sockets}")


def _of_machine(cpu: Mapping[str, Any], host: HostSnapshot) -> Iterator[Finding]:
    if cpu["governor"] not in (None, "performance"):
        what = f"the frequency governor is {cpu['governor']}"
        yield Finding(what, "performance", "cpupower frequency-set --governor performance")
    if cpu["hypervisor"]:
        what = "this is a virtual machine: others on its host are invisible"
        remedy = "compare only what was measured in one run, and take more rounds"
        yield Finding(what, "a dedicated machine", remedy)
    if host.available_memory_bytes < 2 * _GIB:
        what = f"{host.available_memory_bytes / _GIB:.1f} GiB of memory are available"
        remedy = "free memory, or smaller batches: what swaps is not measured"
        yield Finding(what, "at least 2 GiB", remedy, "C")
    if host.swap_used_bytes >= _GIB / 4:
        what = f"{host.swap_used_bytes / _GIB:.1f} GiB are swapped out"
        yield Finding(what, "at most 0.25 GiB", "free memory, then swapoff and swapon")
    if host.disk_free_bytes < _GIB / 4:
        what = f"{host.disk_free_bytes / 2**20:.0f} MiB are free on the disk for reports"
        yield Finding(what, "at least 256 MiB", "make room, or write elsewhere with --out")


def _of_code(code: Mapping[str, Any] | None) -> Iterator[Finding]:
    if code and code["dirty"]:
        what = f"the code differs from commit {code['commit'][:10]}, which the run will name"
        yield Finding(what, "what is measured is committed", "git commit, then measure")


def _of_unused_devices(sentences: Sequence[str]) -> Iterator[Finding]:
    for what in sentences:
        remedy = f"install one, or --device {devices.host()} to leave the device alone"
        yield Finding(what, "a build of torch that can use it", remedy)


def _of_energy(energy: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Of counters that are there: a machine without any has no remedy."""
    if energy is not None and energy["counters"] and energy["unreadable"]:
        remedy = "chmod a+r /sys/class/powercap/*/energy_uj (as root), for energy_j_img"
        yield Finding(energy["unreadable"], "energy can be read", remedy)


def _of_gpu(gpu: Mapping[str, Any] | None, platform: str) -> Iterator[Finding]:
    if gpu is None:
        return
    if "unreadable" in gpu:
        remedy = "on an NVIDIA GPU: install NVIDIA's driver library in this container"
        if "microsoft" in platform:  # WSL
            remedy = "put WSL's driver library into the loader's path: /usr/lib/wsl/lib"
        good = "clocks, temperature and power can be read"
        yield Finding(gpu["unreadable"], good, remedy, "B")
        return
    yield from _of_idle_gpu(gpu["idle"], gpu["memory_bytes"])
    limit, usual = gpu.get("power_limit_w"), gpu.get("power_default_w")
    if gpu.get("compute_mode") == "exclusive":
        what = "the GPU's compute mode is exclusive: `vitbench ab` keeps two processes there"
        yield Finding(what, "default", "nvidia-smi --compute-mode=DEFAULT (as root)")
    if gpu.get("persistence_mode") == 0:
        what = "persistence mode is off: the driver is loaded anew for each process"
        yield Finding(what, "on", "nvidia-smi --persistence-mode=1 (as root)")
    if limit is not None and usual is not None and limit < usual:
        what, command = f"the power limit is {limit:.0f} W", f"nvidia-smi --power-limit={usual:.0f}"
        remedy = f"{command} (as root), or name the limit beside the figures"
        yield Finding(what, f"the board's {usual:.0f} W", remedy)
    if gpu.get("mig_mode"):
        what = "the GPU is divided (MIG): a part of it is measured"
        yield Finding(what, "the whole GPU", "name the part beside the figures")


def _of_idle_gpu(idle: Mapping[str, Any], memory_bytes: int) -> Iterator[Finding]:
    remedy = "stop what else runs on the GPU"
    yield from _graded("gpu_idle_utilisation", idle["utilisation"], remedy)
    if idle["bad_reasons"]:
        what = f"the GPU lowers its clock: {', '.join(idle['bad_reasons'])}"
        yield Finding(what, "full clocks", "cool it, or raise its power limit", "C")
    if idle["free_bytes"] is not None and idle["free_bytes"] < 0.9 * memory_bytes:
        what = f"{idle['free_bytes'] / memory_bytes:.0%} of the GPU's memory is free"
        yield Finding(what, "at least 90%", "stop what else holds memory there")
