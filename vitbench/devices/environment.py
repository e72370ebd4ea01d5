"""The fingerprint of hardware and software, and the ceilings of the device."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from vitbench.devices import nvml as gpu
from vitbench.instruments import host

_PACKAGES = ("vitbench", "torch", "numpy", "fvcore", "triton", "timm", "torchvision")


def configure(threads: int) -> None:
    """Sets what would otherwise be inherited: threads, denormals, TF32, autotuning, and what a
    mechanism may have left changed: default dtype and device, and whether gradients are kept."""
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined] # not in stubs
    torch.backends.cudnn.benchmark = True


def fingerprint(device: str, plugins: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """Everything that a figure may depend on. No host name, user or path of the machine."""
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": cpu_facts(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch": torch_facts(),
        "device": device,
        "device_name": device_name(device),
        "code": git_state(Path(__file__)),
        "plugins": {name: _plugin_facts(path) for name, path in (plugins or {}).items()},
    }
    if device.startswith("cuda"):
        found["gpu"] = gpu_facts(device)
    return found


def idle_state(device: str) -> dict[str, Any]:
    """What others do on the GPU, read before this process does anything there."""
    if not device.startswith("cuda"):
        return {}
    try:
        board = gpu.Gpu(str(torch.cuda.get_device_properties(device).uuid))
    except gpu.GpuUnreadable:
        return {}
    return {"gpu_idle_utilisation": board.state().utilisation}


def device_name(device: str) -> str:
    """What a chart's caption calls the device."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    facts = cpu_facts()
    return f"{facts['model']}, {torch.get_num_threads()} threads"


def cpu_facts() -> dict[str, Any]:
    """The CPU's model, cores, instruction sets, governor and quota."""
    flags = _cpuinfo("flags") or _cpuinfo("Features") or ""
    wide = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")
    return {
        "model": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(),
        "cores_usable": host.usable_cores(),
        "cgroup_quota_cores": host.cpu_quota(),
        "instruction_sets": [name for name in wide if name in flags.split()],
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "turbo_disabled": _text("/sys/devices/system/cpu/intel_pstate/no_turbo"),
        "hypervisor": "hypervisor" in flags.split(),
    }


def torch_facts() -> dict[str, Any]:
    """torch's build and the settings that `configure` made."""
    sdp = torch.backends.cuda
    return {
        "version": torch.__version__,
        "git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "tf32_matmul": tf32(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "sdpa_backends": [
            name
            for name, enabled in (
                ("flash", sdp.flash_sdp_enabled()),
                ("mem_efficient", sdp.mem_efficient_sdp_enabled()),
                ("cudnn", sdp.cudnn_sdp_enabled()),
                ("math", sdp.math_sdp_enabled()),
            )
            if enabled
        ],
    }


def tf32() -> bool:
    """Whether fp32 matrix products on CUDA round their inputs to TF32."""
    return bool(torch.backends.cuda.matmul.fp32_precision == "tf32")


def gpu_facts(device: str) -> dict[str, Any]:
    """The GPU's properties; the driver's facts where NVML answers."""
    properties = torch.cuda.get_device_properties(device)
    facts: dict[str, Any] = {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
    }
    try:
        board = gpu.Gpu(str(properties.uuid))
        idle = board.state()
        facts |= board.facts()
        facts["idle"] = dataclasses.asdict(idle) | {"bad_reasons": list(idle.bad_reasons)}
    except gpu.GpuUnreadable as error:
        facts["nvml"] = str(error)
    return facts


def _plugin_facts(path: Path) -> dict[str, Any]:
    """What a plugin's file holds, and the commit of the repository that it is in."""
    return {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "git": git_state(path),
    }


def git_state(file: Path) -> dict[str, Any] | None:
    """The commit of the code measured and whether the tree differs from it; None where git does
    not know the file."""

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(file.parent), *words]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None or git("ls-files", "--error-unmatch", file.name) is None:
        return None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def ceilings(device: str, dtypes: tuple[str, ...], seconds: float = 0.3) -> dict[str, Any]:
    """What the device reaches: a large matrix product for each dtype, and a large copy.

    The best of several repetitions each, as a ceiling has to be. FLOP/s and bytes/s.
    """
    on_cuda = device.startswith("cuda")
    with torch.inference_mode():
        rates = {name: _product_rate(device, getattr(torch, name), seconds) for name in dtypes}
        # Eight times a large last-level cache on the CPU, so that it is memory that is measured.
        source = torch.randn(2**28 if on_cuda else 2**26, device=device)
        target = torch.empty_like(source)
        copy_s = _best_s(lambda: target.copy_(source), device, seconds)
    return {"flops_rate": rates, "bandwidth": 2 * source.nbytes / copy_s}


def _product_rate(device: str, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of a large square product; smaller where the dtype is emulated."""
    rate = 0.0
    for size in (256, 512, 1536) if device == "cpu" else (1024, 8192):
        if rate and 2 * size**3 / rate > seconds:
            continue
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        product = functools.partial(torch.mm, a, b, out=out)
        rate = max(rate, 2 * size**3 / _best_s(product, device, seconds))
    return rate


def _best_s(call: Callable[[], Any], device: str, seconds: float) -> float:
    best, start = float("inf"), time.perf_counter()
    call()
    while time.perf_counter() - start < seconds or best == float("inf"):
        _synchronize(device)
        began = time.perf_counter()
        call()
        _synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo(key: str) -> str | None:
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def resolve_device(asked: str) -> str:
    """`auto` to the best device; `cuda` and `cuda:1` checked. Raises LookupError in words."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if asked == "auto":
        return "cuda" if count else "cpu"
    if asked == "cpu":
        return asked
    index = int(asked.partition(":")[2] or 0)
    if count == 0:
        built = "" if torch.version.cuda else " (this torch is built without CUDA)"
        raise LookupError(f"no CUDA device is there for --device {asked}{built}; try --device cpu")
    if index >= count:
        known = ", ".join(f"cuda:{number}" for number in range(count))
        raise LookupError(f"no CUDA device {asked!r} is there; known: {known}")
    return asked


def python_executable() -> str:
    """The interpreter, for worker processes."""
    return sys.executable or os.environ.get("PYTHON", "python3")
