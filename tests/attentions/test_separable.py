"""Separable self-attention (arXiv 2206.02680)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.mobilevit import LinearSelfAttention
from torch import Tensor

import attentions
from attentions import Grid
from attentions.separable import unfolded
from tests.attentions.beside_timm import Weights, assert_is_timms
from tests.attentions.by_hand import pointwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"patch_size": [1, 2, 3]}
COUNTS = [(case("separable", 384, 12, 14, 14), 3 * 384**2 + 4 * 384 + 1, 86_779_392)]
STATES = [  # the authors' LinearSelfAttention
    (
        case("separable", 8, 2, 4, 4),
        layers({"qkv_proj.block.conv": (17, 8, 1, 1), "out_proj.block.conv": (8, 8, 1, 1)}),
    )
]
LOOPS = [
    case("separable", 5, 1, height, width, patch_size=size)
    for height, width, size in ((4, 6, 2), (3, 4, 1), (5, 3, 2), (1, 1, 2))
]
REFUSED = [(case("separable", 8, 2, 4, 4, patch_size=0), "patch_size must be at least 1, got 0")]

SEPARABLE = attentions.load("separable")


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The tokens a multiple of the patch away along both sides."""
    size = draw.params["patch_size"]
    rows = (torch.arange(draw.grid.height) - row) % size == 0
    return rows[:, None] & ((torch.arange(draw.grid.width) - column) % size == 0)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """For each place in a patch: softmax of the scores, a sum of keys, a product with values."""
    size = draw.params["patch_size"]
    projected = pointwise(module.qkv_proj.block.conv, x[0])
    score, key, value = projected.split((1, 5, 5), dim=-1)
    out = torch.empty_like(x)
    for i in range(min(size, x.shape[1])):
        for j in range(min(size, x.shape[2])):
            total, context = 0.0, torch.zeros(5, dtype=torch.float64)
            places = [
                (m, n) for m in range(i, x.shape[1], size) for n in range(j, x.shape[2], size)
            ]
            for place in places:
                total += score[place][0].exp().item()
                context += score[place][0].exp() * key[place]
            for place in places:
                gated = value[place].clamp(min=0) * context / total
                out[0][place] = pointwise(module.out_proj.block.conv, gated)
    return out


@pytest.mark.parametrize(("height", "width", "size"), [(6, 8, 2), (7, 5, 1), (4, 4, 2)])
def test_is_timms(height: int, width: int, size: int) -> None:
    """timm's LinearSelfAttention, on the patches that its block makes of the map."""

    def renamed(weights: Weights) -> Weights:
        return {name.replace("proj.", "proj.block.conv."): weights[name] for name in weights}

    def call(module: Any, x: Tensor) -> Tensor:
        patches = unfolded(x.permute(0, 3, 1, 2), size, fill=0.0)
        out = module(patches).unflatten(3, (height // size, -1)).unflatten(2, (size, size))
        return out.permute(0, 4, 2, 5, 3, 1).reshape(x.shape)

    draw = case("separable", 12, 3, height, width, patch_size=size)
    assert_is_timms(draw, LinearSelfAttention(12), call=call, renamed=renamed)


@settings(deadline=None, max_examples=10)
@given(height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 99))
def test_token_order_does_not_matter(height: int, width: int, seed: int) -> None:
    """With one context for the whole map, shuffled tokens give the shuffled output."""
    torch.manual_seed(seed)
    module = SEPARABLE.build(6, 1, Grid(height, width), impl="fused", patch_size=1).double()
    x = torch.randn(2, height * width, 6, dtype=torch.float64)
    order = torch.randperm(height * width)

    def output(tokens: Tensor) -> Tensor:
        return module(tokens.unflatten(1, (height, width))).flatten(1, 2)

    with torch.inference_mode():
        torch.testing.assert_close(output(x[:, order]), output(x)[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_a_set_without_tokens_leaves_gradients_finite(impl: str) -> None:
    """On one row, half of the places in a patch have no token."""
    module = case("separable", 6, 1, 1, 3, patch_size=2).exact(impl)
    module(torch.randn(1, 1, 3, 6, dtype=torch.float64)).sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.isfinite().all()
        for parameter in module.parameters()
    )
