"""What a call dispatches, and on which kernel attention runs."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import attentions
from attentions import Grid
from vitbench.instruments import _dispatch


def attention(tokens: int = 16) -> torch.Tensor:
    q, k, v = torch.randn(3, 2, 4, tokens, 8).unbind()
    return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize(
    ("backend", "kernel"), [(SDPBackend.FLASH_ATTENTION, "flash"), (SDPBackend.MATH, "math")]
)
def test_the_kernel_of_attention(backend: SDPBackend, kernel: str) -> None:
    """Named by what ran, not by what was asked for."""
    with torch.inference_mode(), sdpa_kernel(backend):
        assert _dispatch.trace(lambda: [attention(), attention()]).kernels == {kernel: 2}


def test_calls_are_counted() -> None:
    """Every operator, views among them, and no attention where there is none."""
    x = torch.randn(3, 4)

    def call() -> torch.Tensor:
        return (x @ x.T + 1).relu()

    found = _dispatch.trace(call)
    assert found.names == {"t": 1, "mm": 1, "add": 1, "relu": 1} or found.calls == 4
    assert found.kernels == {}


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_both_implementations_of_msa(impl: str) -> None:
    """The equations run on no kernel of their own."""
    module = attentions.load("msa").build(32, 2, Grid(12, 13), impl=impl)
    x = torch.randn(2, 12, 13, 32)
    with torch.inference_mode():
        found = _dispatch.trace(functools.partial(module, x))
    assert found.kernels == ({"flash": 1} if impl == "fused" else {})


def test_a_training_step() -> None:
    """The backward pass is part of the call."""
    x = torch.randn(4, 4, requires_grad=True)
    forward = _dispatch.trace(lambda: (x @ x).sum()).calls
    assert _dispatch.trace(lambda: (x @ x).sum().backward()).calls > forward
