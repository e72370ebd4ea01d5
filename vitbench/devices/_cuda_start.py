"""Whether torch can compute on a GPU here; if not, one sentence with the remedy."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import psutil

from vitbench.errors import BadInput, first_line

if TYPE_CHECKING:
    import torch

    from vitbench.devices._gpu import Gpu

# With one of them every launch waits for the device: no launch is queued, and no time is a user's.
_BLOCKING = ("CUDA_LAUNCH_BLOCKING", "HIP_LAUNCH_BLOCKING", "AMD_SERIALIZE_KERNEL")
# Of the memory that is available now.
_MEMORY_SHARE = 0.9
_SHARED = "nvidia-smi --compute-mode=DEFAULT (as root)"


def reason_for_none() -> str:
    """Why torch finds no GPU: its build, a driver that is too old, or what torch says."""
    import torch

    from vitbench.devices import _nvml

    if torch.version.hip is None:
        if torch.version.cuda is None:
            return "this torch is built without CUDA"
        driver, build = _nvml.cuda_of_driver(), torch.version.cuda
        if driver is not None and driver[0] < int(build.partition(".")[0]):
            newest = ".".join(map(str, driver))
            return (
                f"the NVIDIA driver supports CUDA {newest} at most, and this torch is built for "
                f"CUDA {build}: update the driver, or install a torch that is built for CUDA "
                f"{driver[0]}"
            )
    try:
        torch.cuda.init()
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        return first_line(error).rstrip(".")
    return ""


def start(device: str, target: torch.device, gpu: Gpu | None, workers: int) -> None:
    """Computes a number there. Raises BadInput where that cannot be, or other processes keep so
    many workers from it."""
    import torch

    name, mode = f"--device {device}", None if gpu is None else gpu.compute_mode()
    _check_variables(name)
    if mode == "prohibited":
        raise BadInput(f"{name}: its compute mode is {mode}, so nothing can run there: {_SHARED}")
    if mode == "exclusive" and workers > 1:
        raise BadInput(
            f"{name}: its compute mode is exclusive, which is for one process, and a comparison "
            f"keeps {workers} there at a time: {_SHARED}"
        )
    held = (
        f"{name}: its compute mode is exclusive, and another process holds it: wait for that "
        f"process or stop it, or {_SHARED}"
    )
    if mode == "exclusive" and gpu is not None and gpu.processes():
        raise BadInput(held)
    try:
        properties = torch.cuda.get_device_properties(target)
        _check_kernels(name, properties, torch.cuda.get_arch_list())
        torch.zeros(1, device=target).add_(1).item()
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        if mode == "exclusive":  # whose ids a container does not show
            raise BadInput(held) from None
        reason = first_line(error).rstrip(".")
        raise BadInput(f"{name} cannot compute: {reason}; try --device cpu") from None
    if properties.is_integrated:  # its memory is the host's, where the kernel would end a process
        share = _MEMORY_SHARE * psutil.virtual_memory().available / properties.total_memory
        torch.cuda.set_per_process_memory_fraction(min(share, 1.0), target)


def _check_variables(name: str) -> None:
    for variable in _BLOCKING:
        if (value := os.environ.get(variable, "0")) not in ("", "0"):
            raise BadInput(
                f"{name}: {variable}={value} makes every launch wait for the GPU, and no time "
                f"would be a user's: unset {variable}"
            )


def _check_kernels(name: str, properties: Any, built_for: Sequence[str]) -> None:
    if missing := _missing_kernels(properties, built_for):
        raise BadInput(
            f"{name}: {missing}: install a build of torch for it, see "
            "https://pytorch.org/get-started/locally, or try --device cpu"
        )


def _missing_kernels(properties: Any, built_for: Sequence[str]) -> str:
    """In words, that a torch built for these architectures has no kernels for this GPU: none of its
    major number and at most its minor, and no code that its driver could compile ("compute_90").
    "sm_90a" is for 9.0 alone. "" where it has, or does not say.
    """
    if not built_for:
        return ""
    has = f"this torch has kernels for {', '.join(built_for)} only"
    if built_for[0].startswith("gfx"):
        arch = properties.gcnArchName.partition(":")[0]
        return "" if arch in built_for else f"{properties.name} is a {arch}, and {has}"
    major, minor = properties.major, properties.minor
    for architecture in built_for:
        if (match := _ARCHITECTURE.fullmatch(architecture)) is None:
            return ""
        kind, number, letter = match.groups()
        built_major, built_minor = divmod(int(number), 10)
        if letter == "a":
            fits = (built_major, built_minor) == (major, minor)
        elif kind == "compute":
            fits = (built_major, built_minor) <= (major, minor)
        else:
            fits = built_major == major and built_minor <= minor
        if fits:
            return ""
    return f"{properties.name} has compute capability {major}.{minor}, and {has}"


_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)([a-z]*)")
