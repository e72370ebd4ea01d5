"""Memory of a real device: by hand, by torch's own counters, and when it runs out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.hardware.conftest import CUDA
from tests.vitbench.examples import case, layer, plugin
from vitbench import devices
from vitbench.devices import Device
from vitbench.engine import passes
from vitbench.instruments import memory
from vitbench.instruments.memory import held_bytes
from vitbench.results.outcome import Failed

MIB = 2**20
SIDE = 1024  # a matrix of 4 MiB


class Chain(nn.Module):
    """Two steps and a product, each of which makes a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIDE, SIDE, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.relu()
        z = y.neg()
        del y
        return self.linear(z)


def test_memory_by_hand(device: Device) -> None:
    """Two matrices at a time, and weights and input; the workspace of the library of products,
    which the process keeps, is not the layer's."""
    module = Chain().to(device.target)
    x = torch.randn(SIDE, SIDE, device=device.target)
    with torch.inference_mode():
        found = memory.measure(device, lambda: module(x), module, (x,))
    assert (found.peak, found.activation) == (16 * MIB, 8 * MIB)
    assert held_bytes(module, (x,)) == 8 * MIB


@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_the_reserve_is_that_of_torch(device: Device) -> None:
    """By torch.cuda.memory_stats, over the same call."""
    module = Chain().to(device.target)
    x = torch.randn(SIDE, SIDE, device=device.target)
    with torch.inference_mode():
        found = memory.measure(device, lambda: module(x), module, (x,))
    stats = torch.cuda.memory_stats(device.target)
    assert found.reserved == stats["reserved_bytes.all.peak"]
    assert stats["allocated_bytes.all.peak"] - stats["allocated_bytes.all.current"] >= 8 * MIB


def test_a_device_recovers_from_running_out_of_memory(device: Device, tmp_path: Path) -> None:
    """A case that needs more than there is costs itself alone: it is named for what it is, and the
    next is measured."""
    greedy = layer(forward="torch.empty(2**50, dtype=torch.int8, device=x.device)", keywords="")
    plugins = {"greedy": plugin(tmp_path, "greedy", greedy)}
    plugins["sound"] = plugin(tmp_path, "sound", layer(keywords=""))
    outcomes = [
        passes.measure(
            case(attention=name, impl="eager", params=(), device=device.name),
            None,
            plugins,
            with_facts=True,
        )
        for name in plugins
    ]
    assert isinstance(outcomes[0], Failed)
    assert outcomes[0].kind == "out_of_memory"
    assert not isinstance(outcomes[1], Failed)


@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_what_was_taken_to_the_last_byte_is_given_back(device: Device) -> None:
    """Filled until nothing is left, which is known for what it is, it computes again."""
    free, _ = torch.cuda.mem_get_info(device.target)
    held = [torch.empty(free * 9 // 10, dtype=torch.int8, device=device.target)]
    with pytest.raises(torch.OutOfMemoryError) as caught:
        held.append(torch.empty(free // 2, dtype=torch.int8, device=device.target))
    assert devices.is_out_of_memory(caught.value)
    held.clear()
    device.release()
    assert torch.ones(8, device=device.target).sum().item() == 8
