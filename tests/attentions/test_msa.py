"""Multi-head self-attention (arXiv 2010.11929)."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.published import row

PARAMS: dict[str, list[Any]] = {"qkv_bias": [True, False]}

MSA = attentions.load("msa")


def test_published_row() -> None:
    """2.36 M parameters and 521.43 M MACs."""
    assert row("msa") == ("2.36", "521.43")


def test_parameters() -> None:
    """The names and shapes of timm's Attention."""
    shapes = {
        key: tuple(value.shape)
        for key, value in MSA.build(8, 2, Grid(3, 3), impl="fused").state_dict().items()
    }
    assert shapes == {
        "qkv.weight": (24, 8),
        "qkv.bias": (24,),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
    }
    assert "qkv.bias" not in MSA.build(8, 2, Grid(3, 3), impl="fused", qkv_bias=False).state_dict()


def test_slow_loop() -> None:
    """softmax(Q K^T / sqrt(d)) V, written token by token and head by head."""
    torch.manual_seed(0)
    module = MSA.build(12, 3, Grid(2, 4), impl="eager").double()
    x = torch.randn(1, 2, 4, 12, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, 3), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, num_heads: int) -> Tensor:
    tokens = x[0].flatten(0, 1)
    q, k, v = (tokens @ module.qkv.weight.T + module.qkv.bias).chunk(3, dim=-1)
    head_dim = tokens.shape[1] // num_heads
    mixed = torch.zeros_like(tokens)
    for head in range(num_heads):
        part = slice(head * head_dim, (head + 1) * head_dim)
        for query in range(len(tokens)):
            weights = [math.exp(q[query, part] @ key[part] / math.sqrt(head_dim)) for key in k]
            for weight, value in zip(weights, v, strict=True):
                mixed[query, part] += weight / sum(weights) * value[part]
    return (mixed @ module.proj.weight.T + module.proj.bias).view_as(x)


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 99))
def test_commutes_with_permutations(height: int, width: int, seed: int) -> None:
    """Tokens have no order: permuting them before or after is the same."""
    torch.manual_seed(seed)
    module = MSA.build(8, 2, Grid(height, width), impl="fused").double()
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    order = torch.randperm(height * width)
    permuted = x.flatten(1, 2)[:, order].view_as(x)
    with torch.inference_mode():
        after = module(x).flatten(1, 2)[:, order].view_as(x)
        torch.testing.assert_close(module(permuted), after, rtol=0, atol=1e-12)


def test_every_token_sees_every_token() -> None:
    """The receptive field is the whole map."""
    torch.manual_seed(0)
    module = MSA.build(8, 2, Grid(3, 4), impl="eager").double()
    x = torch.randn(1, 3, 4, 8, dtype=torch.float64)
    with torch.inference_mode():
        before = module(x)
        for token in range(12):
            moved = x.clone()
            moved.view(-1, 8)[token] += 1
            assert (module(moved) - before).abs().amax(-1).min() > 1e-6
