"""Peak memory of one call: exact on the CPU from the allocator's events, on CUDA its peak."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes.

    peak        highest allocator level during the call, weights and inputs included
    activation  the same, less weights and inputs
    reserved    what the CUDA allocator holds (None on the CPU)
    rss         the process's highest resident set during the call (None where unknown)
    """

    peak: int
    activation: int
    reserved: int | None
    rss: int | None


def held_bytes(module: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Bytes of parameters, buffers and inputs; storage shared by two tensors counts once."""
    storages = {}
    for tensor in (*module.parameters(), *module.buffers(), *inputs):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(call: Callable[[], Any], module: nn.Module, inputs: tuple[Tensor, ...]) -> Memory:
    """The memory of one call, after one call that fills the caches.

    `call` must leave nothing behind (a training step drops its gradients before it starts).
    """
    device = inputs[0].device
    call()
    if device.type == "cuda":
        return _measure_cuda(call, device, held_bytes(module, inputs))
    return _measure_cpu(call, held_bytes(module, inputs))


def _measure_cpu(call: Callable[[], Any], held: int) -> Memory:
    gc.collect()
    _reset_peak_rss()
    activation = peak_of_events(allocations(call))
    return Memory(held + activation, activation, None, peak_rss())


def allocations(call: Callable[[], Any]) -> list[int]:
    """Bytes of every allocation (positive) and release (negative) of one call, in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as prof:
        result = call()
        del result
    results = prof.profiler.kineto_results
    return [event.nbytes() for event in results.events() if event.name() == "[memory]"]


def peak_of_events(events: Iterable[int]) -> int:
    """The highest level of a running sum that starts at zero."""
    level = peak = 0
    for nbytes in events:
        level += nbytes
        peak = max(peak, level)
    return peak


def _measure_cuda(call: Callable[[], Any], device: torch.device, held: int) -> Memory:
    gc.collect()
    torch.cuda.synchronize(device)
    # cuBLAS keeps workspaces in the same allocator; they are the process's, not the call's.
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    result = call()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device)
    reserved = torch.cuda.max_memory_reserved(device)
    del result
    return Memory(peak, peak - before, reserved, peak_rss())


def _reset_peak_rss() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts anew
    except OSError:
        return


def peak_rss() -> int | None:
    """The process's highest resident set (VmHWM), where /proc tells it."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
