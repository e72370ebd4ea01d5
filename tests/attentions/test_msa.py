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
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"qkv_bias": [True, False]}
PUBLISHED: tuple[dict[str, Any], str, str] = {}, "2.36", "521.43"
STATES = [  # timm's Attention
    (case("msa", 8, 2, 3, 3), layers({"qkv": (24, 8), "proj": (8, 8)})),
]
LOOPS = [case("msa", 12, 3, 2, 4)]

MSA = attentions.load("msa")


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """Every token sees every token."""
    return torch.ones(draw.grid.height, draw.grid.width, dtype=torch.bool)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, written token by token and head by head."""
    tokens = x[0].flatten(0, 1)
    q, k, v = (tokens @ module.qkv.weight.T + module.qkv.bias).chunk(3, dim=-1)
    head_dim = tokens.shape[1] // draw.num_heads
    mixed = torch.zeros_like(tokens)
    for head in range(draw.num_heads):
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
