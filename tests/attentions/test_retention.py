"""Retention with the Manhattan decay of RMT (arXiv 2309.11523)."""

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
from tests.attentions.by_hand import depthwise
from tests.attentions.draws import Draw, as_msa, case, layers

PARAMS: dict[str, list[Any]] = {
    "chunkwise_recurrent": [True, False],
    "initial_value": [1.0, 2.0],
    "heads_range": [0.0, 4.0, 6.0],
}
STATES = [  # VisionRetentionChunk and VisionRetentionAll of the authors' RMT
    (
        case("retention", 8, 2, 3, 4, chunkwise_recurrent=chunks),
        layers(
            {f"{name}_proj": (8, 8) for name in ("q", "k", "v", "out")}
            | {"lepe.conv": (8, 1, 5, 5)}
        ),
    )
    for chunks in (True, False)
]
LOOPS = [
    case("retention", 12, 3, height, width, chunkwise_recurrent=chunks)
    for height, width in ((3, 4), (5, 2), (1, 1))
    for chunks in (True, False)
]
REFUSED = [
    (
        case("retention", 15, 3, 3, 3),
        "pairs of channels turn, so a head's width must be even, got 5",
    ),
    (
        case("retention", 12, 3, 3, 3, initial_value=0.0),
        "initial_value must be at least 1e-09, so that decays are over 0, got 0",
    ),
    (
        case("retention", 12, 3, 3, 3, heads_range=-1.0),
        "heads_range must be at least 0, got -1",
    ),
    (case("retention", 12, 3, 3, 3), None),
]
# Decays that round to 1 in fp64, and of 7e-10.
NO_DECAY = {"initial_value": 60.0}
ALL_DECAY = {"initial_value": 1e-9, "heads_range": 0.0}

RETENTION = attentions.load("retention")


def rounded(value: float) -> float:
    """As fp32 holds it: what is made for the map is made in the default dtype."""
    return torch.tensor(value, dtype=torch.float32).double().item()


def rotated(token: Tensor, position: int) -> Tensor:
    """The pairs of channels of one head of a token, turned one by one."""
    out, pairs = torch.empty_like(token), len(token) // 2
    for pair in range(pairs):
        angle = position * 10000 ** -(pair / max(pairs - 1, 1))
        cos, sin = rounded(math.cos(angle)), rounded(math.sin(angle))
        first, second = token[2 * pair], token[2 * pair + 1]
        out[2 * pair] = first * cos - second * sin
        out[2 * pair + 1] = second * cos + first * sin
    return out


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Token by token: over all of the map, or over its row and then the results of its column."""
    (height, width), heads = x.shape[1:3], draw.num_heads
    layers = (module.q_proj, module.k_proj, module.v_proj)
    q, k, values = (layer(x[0]) for layer in layers)
    q, k, v = (part.unflatten(-1, (heads, -1)).clone() for part in (q, k, values))
    tokens = [(i, j) for i in range(height) for j in range(width)]
    for i, j in tokens:
        for head in range(heads):
            q[i, j, head] = rotated(q[i, j, head], i * width + j)
            k[i, j, head] = rotated(k[i, j, head], i * width + j)

    def over(keys: list[tuple[int, int]], i: int, j: int, head: int) -> Tensor:
        decay = 1 - 2 ** -(2.0 + 6.0 * head / heads)
        scores = [
            k[a, b, head] @ q[i, j, head] / q.shape[-1] ** 0.5
            + rounded(rounded(abs(a - i) * math.log(decay)) + rounded(abs(b - j) * math.log(decay)))
            for a, b in keys
        ]
        weights = torch.stack(scores).softmax(0)
        return sum(
            (weight * v[a, b, head] for weight, (a, b) in zip(weights, keys, strict=True)),
            torch.zeros_like(v[i, j, head]),
        )

    def everywhere(keys: Any) -> Tensor:
        out = torch.empty_like(v)
        for i, j in tokens:
            for head in range(heads):
                out[i, j, head] = over(keys(i, j), i, j, head)
        return out

    if draw.params["chunkwise_recurrent"]:
        v = everywhere(lambda i, _: [(i, b) for b in range(width)])
        mixed = everywhere(lambda _, j: [(a, j) for a in range(height)])
    else:
        mixed = everywhere(lambda i, j: tokens)
    return module.out_proj(mixed.flatten(2) + depthwise(module.lepe.conv, values))[None]


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """Rows and then columns reach every token."""
    return torch.ones(draw.grid.height, draw.grid.width, dtype=torch.bool)


def without_positions(module: Any) -> Any:
    """Nothing turns, and the convolution adds nothing."""
    module.turn[0], module.turn[1] = 1, 0
    for parameter in module.lepe.parameters():
        torch.nn.init.zeros_(parameter)
    return module


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_decay_of_1_is_softmax_attention(impl: str) -> None:
    """Over the whole map without decay and positions, what is left is MSA."""
    draw = case("retention", 12, 3, 4, 5, chunkwise_recurrent=False, **NO_DECAY)
    module = without_positions(draw.exact(impl))
    msa = as_msa(module, draw, ("q_proj", "k_proj", "v_proj"), "out_proj")
    x = draw.input(batch=2).double()
    with torch.inference_mode():
        torch.testing.assert_close(module(x), msa(x), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=10)
@given(
    length=st.integers(1, 50),
    down=st.booleans(),
    impl=st.sampled_from(["eager", "fused"]),
    initial=st.floats(0.5, 8),
)
def test_one_line_is_the_whole_map(length: int, down: bool, impl: str, initial: float) -> None:
    """On a map of one row or column both forms are the same function."""
    size = (length, 1) if down else (1, length)
    rows, whole = (
        case("retention", 12, 3, *size, initial_value=initial, chunkwise_recurrent=chunks)
        for chunks in (True, False)
    )
    x = rows.input().double()
    with torch.inference_mode():
        result, expected = rows.exact(impl)(x), whole.exact(impl)(x)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=10)
@given(height=st.integers(1, 6), width=st.integers(1, 45), chunks=st.booleans())
def test_nothing_but_decay_leaves_each_token_alone(height: int, width: int, chunks: bool) -> None:
    """Where one step weighs next to nothing, a token gets its own value and the convolution's."""
    draw = case("retention", 12, 3, height, width, chunkwise_recurrent=chunks, **ALL_DECAY)
    module, x = draw.exact("fused"), draw.input().double()
    with torch.inference_mode():
        values = module.v_proj(x)
        expected = module.out_proj(values + module.lepe(values))
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-7)


@settings(deadline=None, max_examples=10)
@given(height=st.integers(1, 6), width=st.integers(1, 45), chunks=st.booleans())
def test_decay_knows_no_direction(height: int, width: int, chunks: bool) -> None:
    """Without positions, a mirrored map gives the mirrored output."""
    draw = case("retention", 12, 3, height, width, chunkwise_recurrent=chunks)
    module, x = without_positions(draw.exact("fused")), draw.input().double()
    with torch.inference_mode():
        for side in (1, 2):
            result = module(x.flip(side)).flip(side)
            torch.testing.assert_close(result, module(x), rtol=0, atol=1e-12)


def test_a_step_costs_each_head_its_decay() -> None:
    """A key one step away weighs 1 - 2^-(2 + 6 h / n) of one at the token, down or across."""
    draw = case("retention", 12, 3, 2, 2, chunkwise_recurrent=False)
    module = without_positions(draw.exact())
    decay = torch.tensor([1 - 2 ** -(2 + 6 * head / 3) for head in range(3)])
    torch.testing.assert_close(module.decay.exp()[:, 0, 1], decay.double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(module.decay.exp()[:, 0, 2], decay.double(), rtol=1e-6, atol=0)
    torch.testing.assert_close(module.decay.exp()[:, 0, 3], decay.double() ** 2, rtol=1e-6, atol=0)


def test_rows_and_columns_cost_less_than_the_map() -> None:
    """H + W keys for each token instead of H W."""
    assert RETENTION.macs is not None
    rows, whole = (
        RETENTION.macs(64, 2, Grid(20, 30), chunkwise_recurrent=chunks) for chunks in (True, False)
    )
    assert whole - rows == 2 * 600 * 64 * (600 - 50)
