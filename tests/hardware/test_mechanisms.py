"""Every mechanism on a device: outputs, gradients, and a graph of a training step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.budget import rms
from tests.attentions.draws import shake
from tests.attentions.test_contract import copy_into, narrow, reference, with_gradients
from tests.hardware.conftest import CUDA
from tests.vitbench.examples import case
from vitbench.devices import Device
from vitbench.instruments import correctness
from vitbench.instruments.correctness import Errors
from vitbench.subjects import build

NAMES = attentions.names()
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def differ(result: Tensor, expected: Tensor, allowed: Errors, least: float = 0.0) -> str | None:
    """Why a result is not the expected one; errors of one that is smaller than `least` are
    measured against that."""
    scale = max(1.0, least / max(rms(expected), torch.finfo(torch.float64).tiny))
    found = correctness.errors(result, expected)
    return correctness.fault_of_value(Errors(found.rms / scale, found.worst / scale), allowed)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_those_of_the_equations(
    device: Device, name: str, dtype: torch.dtype
) -> None:
    """Of every implementation, within the budget of its dtype; gradients within twice that, against
    the largest of them."""
    draw = narrow(name, Grid(14, 14), **attentions.load(name).checked_with)
    weights = shake(draw.build("eager")).to(dtype)
    x, cotangent = (draw.input(batch=2, seed=seed).to(device.target, dtype) for seed in (0, 1))
    definition = reference(draw, weights).to(device.target)
    expected = with_gradients(definition, x.double(), cotangent.double())
    least = max(rms(value) for key, value in expected.items() if key != "output")
    allowed = correctness.budget(dtype)
    twice = Errors(2 * allowed.rms, 2 * allowed.worst)
    for impl in attentions.load(name).impls:
        module = copy_into(draw.build(impl).to(dtype), weights).to(device.target)
        result = with_gradients(module, x, cotangent)
        assert differ(result.pop("output"), expected["output"], allowed) is None, impl
        for key, gradient in result.items():
            fault = differ(gradient, expected[key], twice, least)
            assert fault is None, f"{impl}, gradient of {key}: {fault}"


@pytest.mark.parametrize("name", ["msa", "hilo", "window"])
@pytest.mark.parametrize("device", [CUDA], indirect=True)
def test_a_graph_of_a_training_step_follows_its_input(device: Device, name: str) -> None:
    """Output and every gradient of a replay on a new input are those of an eager step there."""
    subject = build.build(
        case(attention=name, params=(), mode="forward_backward", device=device.name), {}
    )
    step, parameters = subject.call, list(subject.module.parameters())

    def call() -> list[Tensor]:
        output = step()
        gradients = [tensor.grad for tensor in (subject.x, *parameters)]
        return [output, *(gradient for gradient in gradients if gradient is not None)]

    graph = device.capture(call)
    with torch.no_grad():
        subject.x.copy_(torch.randn_like(subject.x))
    graph.replay()
    device.synchronize()
    found = [tensor.clone() for tensor in graph.output]
    expected = call()
    assert len(found) == len(expected) == 2 + len(parameters)
    for result, eager in zip(found, expected, strict=True):
        torch.testing.assert_close(result, eager, rtol=1e-4, atol=1e-5)
