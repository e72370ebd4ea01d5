"""Peak memory of one call: the device's allocator's, or what else tells where that sees nothing."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from vitbench.devices import Call, Device, Memory
from vitbench.instruments import Column, Workload, host

if TYPE_CHECKING:
    from torch import Tensor, nn

ORDER = 2
# Where a peak is read: of torch's allocator, which sees it all; of that and what a runtime says
# that it keeps; of the process's resident set; nowhere.
ALLOCATOR, RUNTIME, RESIDENT, UNKNOWN = "allocator", "runtime", "resident", ""
# What compares with no other peak: it holds a library's own buffers, and is not the same twice.
INEXACT = (RUNTIME, RESIDENT)
COLUMNS = (
    Column(
        "peak_memory_bytes",
        "bytes",
        "highest allocator level during one call, weights and inputs included; on the CPU exact",
        "int",
        exact=True,
    ),
    Column(
        "activation_memory_bytes",
        "bytes",
        "the same, less weights and inputs; of a training step the gradients are in it",
        "int",
        exact=True,
        signed=True,
    ),
    Column(
        "memory_source",
        "",
        "of the peak: `allocator`, torch's own; `runtime`, that and what the runtime says that it "
        "works in; `resident`, what the process's resident set grew by with the module and its "
        "first call, and what it grows by in a call; empty where nothing tells",
        "text",
    ),
    Column("reserved_memory_bytes", "bytes", "CUDA allocator's reserve", "int"),
    Column(
        "peak_rss_bytes", "bytes", "the process's highest resident set (VmHWM) on the CPU", "int"
    ),
)


def read(workload: Workload) -> Mapping[str, Any]:
    """Of one call, after one that fills the caches."""
    if workload.memory_source == UNKNOWN:
        return {}
    if workload.memory_source == RESIDENT:
        return _resident(workload.call, workload.resident_held_bytes)
    memory = measure(
        workload.device, workload.call, workload.module, (workload.x,), workload.kept_bytes
    )
    return {
        "peak_memory_bytes": memory.peak,
        "activation_memory_bytes": memory.activation,
        "reserved_memory_bytes": memory.reserved,
        "peak_rss_bytes": memory.rss,
        "memory_source": workload.memory_source,
    }


def _resident(call: Call, held_bytes: int) -> Mapping[str, Any]:
    """By the resident set: what it grew by with the module, and what it grows by in a call. Not by
    its size before the module, since the checks between import packages and fill caches."""
    call()
    gc.collect()
    before_bytes = host.resident_bytes()
    highest = host.highest_resident_bytes(call)
    peak = None if highest is None else max(0, held_bytes) + max(0, highest - before_bytes)
    return {"peak_memory_bytes": peak, "peak_rss_bytes": highest, "memory_source": RESIDENT}


def held_bytes(module: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Bytes of parameters, buffers and inputs; storage shared by two tensors counts once."""
    storages = {}
    for tensor in (*module.parameters(), *module.buffers(), *inputs):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(
    device: Device,
    call: Call,
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    kept_bytes: int = 0,
) -> Memory:
    """The memory of one call, after one call that fills the caches; what it keeps is in it.

    Gradients that a training step made before are dropped, so that on every device those that it
    makes now count: a step begins with none.
    """
    call()
    module.zero_grad(set_to_none=True)
    for x in inputs:
        x.grad = None
    memory = device.memory(call, held_bytes(module, inputs) + kept_bytes)
    return dataclasses.replace(memory, activation=memory.activation + kept_bytes)
