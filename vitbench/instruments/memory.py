"""Peak memory of one call, as the device's allocator has it."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from vitbench.devices import Call, Device, Memory


def held_bytes(module: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Bytes of parameters, buffers and inputs; storage shared by two tensors counts once."""
    storages = {}
    for tensor in (*module.parameters(), *module.buffers(), *inputs):
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(device: Device, call: Call, module: nn.Module, inputs: tuple[Tensor, ...]) -> Memory:
    """The memory of one call, after one call that fills the caches.

    `call` must leave nothing behind (a training step drops its gradients before it starts).
    """
    call()
    return device.memory(call, held_bytes(module, inputs))
