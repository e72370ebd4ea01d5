"""Case -> module, inputs and the call that is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import attentions
from attentions import AttentionSpec
from vitbench.case import Case


class Unsupported(Exception):
    """The mechanism cannot run this case; the message is the reason, in words."""


@dataclass(slots=True)
class Subject:
    """What is measured.

    module  the layer, on the device, in the dtype, eval() unless trained
    x       the input map (batch, height, width, dim)
    call    one forward pass, or one training step of the layer
    """

    module: nn.Module
    x: Tensor
    call: Callable[[], Any]


def spec_of(name: str, plugins: Mapping[str, Path]) -> AttentionSpec:
    """The spec of a mechanism of the registry or of a plugin."""
    return attentions.load_file(plugins[name]) if name in plugins else attentions.load(name)


def seed_of(case: Case) -> int:
    """A seed shared by the cases that should hold equal weights: all but impl, dtype and device."""
    words = (case.attention, case.params, case.grid, case.dim, case.num_heads)
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:6], "big")


def build_module(spec: AttentionSpec, case: Case, impl: str) -> nn.Module:
    """The layer in fp32 on the CPU, its weights drawn from the case's seed. Raises Unsupported."""
    params = dict(case.params)
    reason = spec.reason_against(case.dim, case.num_heads, case.grid, **params)
    if reason is not None:
        raise Unsupported(reason)
    torch.manual_seed(seed_of(case))
    return spec.build(case.dim, case.num_heads, case.grid, impl=impl, **params)


def build_input(case: Case, batch_size: int) -> Tensor:
    """Random normal input in fp32 on the CPU: zeros time faster than data."""
    generator = torch.Generator().manual_seed(seed_of(case) + 1)
    return torch.randn(batch_size, case.grid_height, case.grid_width, case.dim, generator=generator)


def build(case: Case, plugins: Mapping[str, Path]) -> Subject:
    """The subject of a case. Raises Unsupported, and whatever the mechanism raises."""
    spec = spec_of(case.attention, plugins)
    dtype = getattr(torch, case.dtype)
    trained = case.mode == "forward_backward"
    module = build_module(spec, case, case.impl).to(case.device, dtype).train(trained)
    x = build_input(case, case.batch_size).to(case.device, dtype)
    runnable: Callable[[Tensor], Tensor] = module
    if case.compiled:
        runnable = torch.compile(module, fullgraph=False, dynamic=False)
    call = training_step(module, runnable, x) if trained else inference(runnable, x)
    return Subject(module, x, call)


def inference(runnable: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Any]:
    """One forward pass; the worker runs it under inference_mode."""
    return lambda: runnable(x)


def training_step(
    module: nn.Module, runnable: Callable[[Tensor], Tensor], x: Tensor
) -> Callable[[], Any]:
    """Forward, and backward to the input and every parameter; gradients are made anew.

    The gradient that arrives is random, and made once: its making is not the layer's work.
    """
    x.requires_grad_(True)
    arriving = torch.randn_like(x, requires_grad=False)

    def step() -> Tensor:
        x.grad = None
        module.zero_grad(set_to_none=True)
        output = runnable(x)
        output.backward(arriving)
        return output.detach()

    return step


def captured(call: Callable[[], Any], device: str) -> tuple[Callable[[], Any], Any]:
    """The call as a CUDA graph. Returns the replay and the output tensor that it fills."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):  # lazy initialisation must not be captured
            call()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call()
    return graph.replay, output
