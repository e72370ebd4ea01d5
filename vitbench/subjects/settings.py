"""What holds for a whole process, and a module may change: read, compared and set again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils import _python_dispatch

# Variables that torch and its compilers set themselves.
_OF_TORCH = ("TORCH", "PYTORCH", "TRITON", "KINETO", "CUDA", "KMP_", "OMP_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a process at one moment.

    precisions  how products of fp32 are rounded, by the part of torch that makes them
    modes       of torch, that see or change what each operator does
    python_threads, processes  that run, which nothing can end from outside
    """

    threads: int
    interop_threads: int
    default_dtype: torch.dtype
    default_device: torch.device
    gradients: bool
    flush_denormal: bool
    deterministic_algorithms: bool
    only_warned: bool
    cudnn_benchmark: bool
    cudnn_deterministic: bool
    precisions: Mapping[str, str]
    signal_handlers: Mapping[str, Any]
    environment: Mapping[str, str]
    folder: str
    modes: int
    python_threads: int
    processes: int


def read() -> Settings:
    """The settings in force."""
    return Settings(
        threads=torch.get_num_threads(),
        interop_threads=torch.get_num_interop_threads(),
        default_dtype=torch.get_default_dtype(),
        default_device=torch.get_default_device(),
        gradients=torch.is_grad_enabled(),
        flush_denormal=_flushes_denormal(),
        deterministic_algorithms=torch.are_deterministic_algorithms_enabled(),
        only_warned=torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn_benchmark=torch.backends.cudnn.benchmark,
        cudnn_deterministic=torch.backends.cudnn.deterministic,
        precisions={name: part.fp32_precision for name, part in _rounding().items()},
        signal_handlers={s.name: signal.getsignal(s) for s in signal.Signals},
        environment={
            name: value for name, value in os.environ.items() if not name.startswith(_OF_TORCH)
        },
        folder=_folder(),
        modes=torch._C._len_torch_dispatch_stack(),
        python_threads=threading.active_count(),
        processes=_processes(),
    )


def _flushes_denormal() -> bool:
    """Whether half of the least normal number is zero, as this thread computes."""
    least = torch.finfo(torch.float32).tiny
    half = torch.full((1,), least, dtype=torch.float32, device="cpu") * 0.5
    return float(half) == 0


def _rounding() -> dict[str, Any]:
    """The parts of torch that round products of fp32, each in its own way."""
    backends: Any = torch.backends
    return {
        "CUDA matmul": backends.cuda.matmul,
        "cuDNN conv": backends.cudnn.conv,
        "cuDNN rnn": backends.cudnn.rnn,
        "oneDNN matmul": backends.mkldnn.matmul,
        "oneDNN conv": backends.mkldnn.conv,
    }


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return ""


def _processes() -> int:
    """The running processes that this one started."""
    running = 0
    for process in _children():
        with contextlib.suppress(psutil.Error):
            running += process.status() != psutil.STATUS_ZOMBIE
    return running


def _children() -> list[psutil.Process]:
    """Linux lists them by thread, where psutil looks through all processes of the machine."""
    lists = list(Path("/proc/self/task").glob("*/children"))
    if not lists:
        return psutil.Process().children()
    children = []
    for path in lists:
        with contextlib.suppress(OSError, psutil.Error):  # a thread or a process may have ended
            children += [psutil.Process(int(pid)) for pid in path.read_text().split()]
    return children


def changes(before: Settings, now: Settings, *, running: bool = True) -> list[str]:
    """What differs, in words: `threads 2 -> 1`.

    running  whether threads and processes count, which `restore` cannot end: they end by themselves
    """
    texts = []
    for field in fields(Settings):
        if field.name in _RUNNING and not running:
            continue
        old, new = getattr(before, field.name), getattr(now, field.name)
        label = field.name.replace("_", " ")
        if old == new or (field.name in _RUNNING and new < old):  # one of before has ended
            continue
        if field.name in _LABELS:
            names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
            texts.append(f"{_LABELS[field.name]} {', '.join(names)}")
        elif field.name == "folder":
            texts.append("the current folder")
        else:
            texts.append(f"{label} {_text(old)} -> {_text(new)}")
    return texts


_RUNNING = ("python_threads", "processes")
_LABELS = {
    "precisions": "precision of fp32 in",
    "signal_handlers": "signal handler of",
    "environment": "environment variable",
}


def _text(value: object) -> str:
    return str(value).removeprefix("torch.").lower()


def restore(kept: Settings) -> None:
    """Sets again what differs, as far as a process can."""
    now = read()
    _leave_modes(kept.modes)
    _restore_torch(kept, now)
    _restore_handlers(kept.signal_handlers)
    for name in {*now.environment, *kept.environment}:
        if name not in kept.environment:
            os.environ.pop(name, None)
        elif now.environment.get(name) != kept.environment[name]:
            os.environ[name] = kept.environment[name]
    if now.folder != kept.folder and kept.folder:
        with contextlib.suppress(OSError):
            os.chdir(kept.folder)


def _leave_modes(kept: int) -> None:
    for mode in _python_dispatch._get_current_dispatch_mode_stack()[kept:][::-1]:
        if mode.old_dispatch_mode_flags:
            _python_dispatch.TorchDispatchMode.__exit__(mode, None, None, None)
        else:  # it was left already, while one that it held was on top, which went in its place
            _python_dispatch._pop_mode()


def _restore_torch(kept: Settings, now: Settings) -> None:
    if now.threads != kept.threads:
        torch.set_num_threads(kept.threads)
    if now.default_dtype != kept.default_dtype:
        torch.set_default_dtype(kept.default_dtype)
    if now.default_device != kept.default_device:
        torch.set_default_device(None)
    if now.gradients != kept.gradients:
        torch.set_grad_enabled(kept.gradients)
    if now.flush_denormal != kept.flush_denormal:
        torch.set_flush_denormal(kept.flush_denormal)
    deterministic = kept.deterministic_algorithms, kept.only_warned
    if (now.deterministic_algorithms, now.only_warned) != deterministic:
        # Not where nothing differs: it imports torch's compilers, which takes seconds.
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
    torch.backends.cudnn.benchmark = kept.cudnn_benchmark
    torch.backends.cudnn.deterministic = kept.cudnn_deterministic
    for name, part in _rounding().items():
        if part.fp32_precision != kept.precisions[name]:
            part.fp32_precision = kept.precisions[name]


def _restore_handlers(kept: Mapping[str, Any]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # only the main thread may set them, a module's code too
    for name, handler in kept.items():
        number = signal.Signals[name]
        # One of None was not set from Python, and Python cannot set it.
        if handler is not None and signal.getsignal(number) != handler:
            signal.signal(number, handler)


def seed(number: int) -> None:
    """Sets the random numbers of torch, Python and NumPy to one known state."""
    torch.manual_seed(number)
    random.seed(number)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(number % 2**32)
