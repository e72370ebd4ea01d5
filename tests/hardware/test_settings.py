"""What fp32 means on a device, and what NVML tells of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tests.hardware.conftest import CUDA
from tests.strangers.test_settings import ONCE
from tests.vitbench.examples import case, layer, plugin
from vitbench import devices
from vitbench.devices import Device, cuda
from vitbench.engine import passes
from vitbench.instruments import correctness
from vitbench.instruments.correctness import Errors
from vitbench.results.outcome import Measured


def errors(device: Device) -> Errors:
    """Of a product and a convolution in fp32, against fp64."""
    a, b = (torch.randn(512, 512, device=device.target) for _ in range(2))
    image, kernel = a.reshape(1, 64, 64, 64), b[:64, :288].reshape(32, 64, 3, 3)[:, :64]
    return correctness.worst_of(
        [a @ b, functional.conv2d(image, kernel)],
        [a.double() @ b.double(), functional.conv2d(image.double(), kernel.double())],
    )


def test_a_product_of_fp32_is_one(device: Device) -> None:
    """Also after a switch was set that rounds it to TF32, once the device is set up again."""
    allowed = correctness.budget(torch.float32, layers=4)  # a convolution may be a Winograd one
    assert correctness.fault_of_value(errors(device), allowed) is None
    if devices.rules(device.name).is_host:
        return
    torch.set_float32_matmul_precision("high")
    if torch.cuda.get_device_capability(device.target) >= (8, 0):
        assert correctness.fault_of_value(errors(device), allowed) is not None
    device.configure(torch.get_num_threads())
    assert correctness.fault_of_value(errors(device), allowed) is None
    assert not device.uses_tf32()


@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_a_module_that_rounds_to_tf32_is_marked(device: Device, tmp_path: Path) -> None:
    """A setting that its forward changes is in its row."""
    rude = layer(forward='torch.set_float32_matmul_precision("high")', keywords="")
    asked = case(attention="rude", impl="eager", params=(), device=device.name)
    plugins = {"rude": plugin(tmp_path, "rude", rude)}
    outcome = passes.measure(asked, ONCE, plugins, with_facts=False)
    assert isinstance(outcome, Measured), outcome
    assert "fp32" in outcome.state["settings_changed"]


@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_the_state_of_the_gpu_can_be_read(device: Device) -> None:
    """Each reading in a range that a GPU can have; where NVML does not answer the test is skipped,
    and of a part of a GPU memory only is its own."""
    assert isinstance(device, cuda.Device)
    gpu = device.gpu()
    if gpu is None:
        pytest.skip(f"the GPU's state cannot be read: {device.facts()['gpu']}")
    state = gpu.state()
    total = torch.cuda.get_device_properties(device.target).total_memory
    assert state.free_bytes is not None
    assert 0 < state.free_bytes <= 1.1 * total
    if gpu.is_part:
        return
    for value, least, most in (
        (state.sm_clock_hz, 1e8, 5e9),
        (state.max_sm_clock_hz, 5e8, 5e9),
        (state.temperature_c, 1, 120),
        (state.power_w, 1, 2000),
        (state.throttle, 0, 2**16),
        (state.utilisation, 0, 1),
    ):
        assert value is not None
        assert least <= value <= most
