"""The fingerprint of a run: the hardware and software that its figures may depend on."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

from vitbench import devices, source
from vitbench.devices import Device
from vitbench.devices._imports import beside
from vitbench.instruments import host

# Variables that say how threads wait, which kernels are chosen and how memory is kept.
_VARIABLES = (
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "ONEDNN_",
    "DNNL_",
    "ATEN_",
    "MALLOC_",
    "GLIBC_",
    "LD_PRELOAD",
)
_PACKAGES = ("vitbench", "torch", "numpy", "fvcore", "triton", "timm", "torchvision")


def fingerprint(device: Device, plugins: Mapping[str, Path] | None = None) -> dict[str, Any]:
    """Everything that a figure may depend on. No host name, user or path of the machine."""
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": host.cpu_facts(),
        "memory_bytes": psutil.virtual_memory().total,
        "torch": torch_facts(),
        "variables": _variables(),
        "device": device.name,
        "device_name": device.label,
        "device_id": device.identity,
        "unused_devices": devices.unused(),
        "code": git_state(Path(__file__)),
        "code_digest": source.digest(),
        "plugins": {
            name: {"sha256": _digest(path), "git": git_state(path)}
            for name, path in (plugins or {}).items()
        },
        **device.facts(),
    }


def _variables() -> dict[str, str]:
    """Those of the environment that change how fast libraries compute. Of paths the file's name."""
    found = {name: text for name, text in os.environ.items() if name.startswith(_VARIABLES)}
    return {name: re.sub(r"[^\s:;,=]*[/\\]", "", text) for name, text in sorted(found.items())}


def _digest(plugin: Path) -> str:
    """Of a plugin's content, and of the files beside it that it imports."""
    digest = hashlib.sha256(plugin.read_bytes())
    for path in beside(plugin):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def torch_facts() -> dict[str, Any]:
    """torch's build and the settings in force."""
    sdp = torch.backends.cuda
    return {
        "version": torch.__version__,
        "git": torch.version.git_version,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "tf32_matmul": sdp.matmul.fp32_precision == "tf32",
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "sdpa_backends": [
            name
            for name in ("flash", "mem_efficient", "cudnn", "math")
            if getattr(sdp, f"{name}_sdp_enabled")()
        ],
    }


def git_state(file: Path) -> dict[str, Any] | None:
    """The commit of the code measured and whether the tree differs from it; None where git does
    not know the file."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(file.parent), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if commit is None or git("ls-files", "--error-unmatch", file.name) is None:
        return None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
