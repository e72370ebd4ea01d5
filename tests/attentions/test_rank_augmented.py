"""Rank-augmented linear attention (arXiv 2411.07635)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from attentions.rank_augmented import elu_plus_one
from tests.attentions.by_hand import depthwise, pointwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {}
STATES = [  # GateLinearAttentionNoSilu of the authors' RAVLT
    (
        case("rank_augmented", 8, 2, 3, 4),
        layers({"qkvo": (32, 8, 1, 1), "lepe": (8, 1, 5, 5), "proj": (8, 8, 1, 1)}),
    )
]
LOOPS = [
    case("rank_augmented", 16, heads, height, width)
    for heads, height, width in ((2, 3, 4), (1, 5, 2), (4, 1, 1))
]
REFUSED = [
    (
        case("rank_augmented", 12, 2, 3, 3),
        "pairs of channels turn with the row or with the column, so a head's width must be a "
        "multiple of 4, got 6",
    ),
    (case("rank_augmented", 12, 3, 3, 3), None),
]

RANK_AUGMENTED = attentions.load("rank_augmented")


def rounded(value: float) -> float:
    """As fp32 holds it: what is made for the map is made in the default dtype."""
    return torch.tensor(value, dtype=torch.float32).double().item()


def rotated(token: Tensor, row: int, column: int) -> Tensor:
    """One head of a token: a half of its pairs turns with the row, a half with the column."""
    out, pairs = torch.empty_like(token), len(token) // 4
    for pair in range(2 * pairs):
        position, index = (row, pair) if pair < pairs else (column, pair - pairs)
        angle = position * 10000 ** -(index / max(pairs - 1, 1))
        cos, sin = rounded(math.cos(angle)), rounded(math.sin(angle))
        first, second = token[2 * pair], token[2 * pair + 1]
        out[2 * pair] = first * cos - second * sin
        out[2 * pair + 1] = second * cos + first * sin
    return out


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """A weight for each pair of tokens; no product of keys and values is formed."""
    height, width = x.shape[1:3]
    q, k, values, gate = pointwise(module.qkvo, x[0]).chunk(4, dim=-1)
    tokens = [(i, j) for i in range(height) for j in range(width)]
    mixed = torch.zeros_like(values)
    for channels in torch.arange(draw.dim).chunk(draw.num_heads):
        queries, keys = (
            torch.where(part > 0, part + 1, part.exp())
            for part in (q[..., channels], k[..., channels])
        )
        mean = sum((queries[token] for token in tokens), torch.zeros(1)) / len(tokens)
        scores = torch.stack([mean @ keys[token] / len(channels) ** 0.5 for token in tokens])
        share = scores.softmax(0)
        for at in tokens:
            query = rotated(queries[at], *at)
            total, sums = torch.tensor(1e-6), torch.zeros(len(channels))
            for weight, token in zip(share, tokens, strict=True):
                total = total + weight * (queries[at] @ keys[token])
                sums = (
                    sums
                    + weight * (query @ rotated(keys[token], *token)) * (values[token][channels])
                )
            mixed[at][channels] = sums / total
    return pointwise(module.proj, (mixed + depthwise(module.lepe, values)) * gate)[None]


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """Keys and values of all tokens meet before any token asks."""
    return torch.ones(draw.grid.height, draw.grid.width, dtype=torch.bool)


def without_positions(module: Any) -> Any:
    """Nothing turns, and the convolution adds nothing."""
    module.turn[0], module.turn[1] = 1, 0
    for parameter in module.lepe.parameters():
        torch.nn.init.zeros_(parameter)
    return module


@pytest.mark.parametrize("impl", ["eager", "fused"])
@settings(deadline=None, max_examples=5)
@given(height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 99))
def test_token_order_matters_by_position_alone(
    impl: str, height: int, width: int, seed: int
) -> None:
    """Without positions, shuffled tokens give the shuffled output."""
    draw = case("rank_augmented", 12, 3, height, width)
    module, x = without_positions(draw.exact(impl)), draw.input(batch=2, seed=seed).double()
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))

    def output(tokens: Tensor) -> Tensor:
        return module(tokens.view(x.shape)).flatten(1, 2)

    tokens = x.flatten(1, 2)
    with torch.inference_mode():
        torch.testing.assert_close(output(tokens[:, order]), output(tokens)[:, order])


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_keys_that_are_alike_average_the_values(impl: str) -> None:
    """Without positions, and where no key stands out, each token gets the mean value, gated."""
    draw = case("rank_augmented", 12, 3, 4, 5)
    module, x = without_positions(draw.exact(impl)), draw.input(batch=2).double()
    with torch.no_grad():
        module.qkvo.weight[12:24] = 0
        module.qkvo.bias[12:24] = 3.0
        values, gate = pointwise(module.qkvo, x)[..., 24:].chunk(2, dim=-1)
        expected = pointwise(module.proj, values.mean((1, 2), keepdim=True) * gate)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-6)


def test_positions_reach_the_numerator_alone() -> None:
    """A map of one value differs from place to place in the output: weights do not sum to 1."""
    draw = case("rank_augmented", 12, 3, 6, 7)
    module, x = draw.exact(), torch.ones(1, 6, 7, 12, dtype=torch.float64)
    torch.nn.init.zeros_(module.lepe.weight)
    with torch.inference_mode():
        assert module(x).flatten(1, 2).std(1).max() > 1e-3
        assert without_positions(module)(x).flatten(1, 2).std(1).max() < 1e-12


@given(x=st.floats(-60, 60))
def test_elu_plus_one_is_elus(x: float) -> None:
    """Value and derivative, on both sides of zero and at it."""
    ours, theirs = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for _ in range(2))
    result, expected = elu_plus_one(ours), torch.nn.functional.elu(theirs) + 1
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-15)
    gradients = (torch.autograd.grad(out, at) for out, at in ((result, ours), (expected, theirs)))
    torch.testing.assert_close(*(gradient[0] for gradient in gradients), rtol=1e-12, atol=1e-15)


def test_cost_is_linear_in_tokens() -> None:
    """Each token more costs the same, however large the map."""
    assert RANK_AUGMENTED.macs is not None
    counts = [RANK_AUGMENTED.macs(64, 2, Grid(side, 10)) for side in (10, 20, 30)]
    assert counts[2] - counts[1] == counts[1] - counts[0]
