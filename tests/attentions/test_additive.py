"""Efficient additive attention (arXiv 2303.15446)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.swiftformer import EfficientAdditiveAttention
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.beside_timm import Weights, assert_is_timms, channels_first
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {}
COUNTS = [(case("additive", 384, 12, 14, 14), 4 * (384**2 + 384) + 384, 115_680_768)]
STATES = [  # the authors' EfficientAdditiveAttnetion
    (
        case("additive", 8, 2, 3, 3),
        layers({"to_query": (8, 8), "to_key": (8, 8), "Proj": (8, 8), "final": (8, 8)})
        | {"w_g": (8, 1)},
    )
]
LOOPS = [case("additive", 6, 1, 3, 4), case("additive", 6, 3, 1, 1)]

ADDITIVE = attentions.load("additive")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Token by token: a score, a global query of all, and its product with each key."""
    tokens = x.flatten(0, 2)
    queries = [query / query.norm() for query in module.to_query(tokens)]
    keys = [key / key.norm() for key in module.to_key(tokens)]
    scores = torch.stack([query @ module.w_g[:, 0] / 6**0.5 for query in queries])
    scores = scores / (scores**2).sum().sqrt()
    global_query = torch.zeros(6, dtype=torch.float64)
    for score, query in zip(scores, queries, strict=True):
        global_query += score * query
    out = [
        module.final(module.Proj(global_query * key) + query)
        for query, key in zip(queries, keys, strict=True)
    ]
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (5, 8)])
def test_is_timms(height: int, width: int) -> None:
    """timm's EfficientAdditiveAttention, which names the projection in lower case."""

    def renamed(weights: Weights) -> Weights:
        return {name.replace("proj.", "Proj."): value for name, value in weights.items()}

    theirs = EfficientAdditiveAttention(24, 24, 1)
    draw = case("additive", 24, 3, height, width)
    assert_is_timms(draw, theirs, call=channels_first, renamed=renamed)


@settings(deadline=None, max_examples=10)
@given(height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 99))
def test_token_order_does_not_matter(height: int, width: int, seed: int) -> None:
    """Shuffled tokens give the shuffled output."""
    torch.manual_seed(seed)
    module = ADDITIVE.build(12, 3, Grid(height, width), impl="fused").double()
    x = torch.randn(2, height * width, 12, dtype=torch.float64)
    order = torch.randperm(height * width)

    def output(tokens: Tensor) -> Tensor:
        return module(tokens.unflatten(1, (height, width))).flatten(1, 2)

    with torch.inference_mode():
        torch.testing.assert_close(output(x[:, order]), output(x)[:, order], rtol=0, atol=1e-12)


def test_sign_of_the_scores_does_not_matter() -> None:
    """The weights have unit length, not sum 1: twice the vector that scores changes nothing, its
    opposite turns the global query round."""
    module: Any = case("additive", 12, 3, 4, 5).exact()
    x = torch.randn(1, 4, 5, 12, dtype=torch.float64)
    with torch.inference_mode():
        expected = module(x)
        module.w_g *= 2
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)
        without = module.final(
            torch.nn.functional.normalize(module.to_query(x), dim=-1) + module.Proj.bias
        )
        module.w_g *= -1
        torch.testing.assert_close(module(x) - without, without - expected, rtol=0, atol=1e-12)
