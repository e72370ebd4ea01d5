"""Cross-covariance attention (arXiv 2106.09681)."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"qkv_bias": [True, False]}
PUBLISHED: tuple[dict[str, Any], str, str] = {}, "2.36", "481.69"
COUNTS = [
    (case("xca", 768, 12, 14, 14), 2_362_380, 481_689_600),
    # The width of the heads counts.
    (case("xca", 768, 6, 14, 14), None, 481_689_600 + 2 * 196 * 768 * 64),
]
STATES = [  # the authors' XCA
    (
        case("xca", 8, 2, 3, 3),
        layers({"qkv": (24, 8), "proj": (8, 8)}) | {"temperature": (2, 1, 1)},
    )
]
LOOPS = [case("xca", 12, 3, 3, 4)]

XCA = attentions.load("xca")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Channel by channel: cosines over the tokens, softmax, a weighted sum of value channels."""
    q, k, v = module.qkv(x.flatten(0, 2)).split(12, dim=1)
    mixed = torch.empty_like(v)
    for channel in range(12):
        head = channel // 4
        cosines = [
            q[:, channel] @ k[:, other] / (q[:, channel].norm() * k[:, other].norm())
            for other in range(4 * head, 4 * head + 4)
        ]
        weights = (torch.stack(cosines) * module.temperature[head, 0, 0]).softmax(0)
        mixed[:, channel] = v[:, 4 * head : 4 * head + 4] @ weights
    return module.proj(mixed).view_as(x)


@settings(deadline=None, max_examples=10)
@given(height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 99))
def test_token_order_does_not_matter(height: int, width: int, seed: int) -> None:
    """Shuffled tokens mix channels by the same weights, so the output is shuffled alike."""
    torch.manual_seed(seed)
    module: Any = XCA.build(12, 3, Grid(height, width), impl="eager").double()
    x = torch.randn(2, height * width, 12, dtype=torch.float64)
    order = torch.randperm(height * width)

    def mixing(tokens: Tensor) -> Tensor:
        q, k, _ = module.qkv(tokens).chunk(3, dim=-1)
        q, k = (part.unflatten(-1, (3, 4)).transpose(1, 2) for part in (q, k))
        return module.channel_mixing(q, k)

    def output(tokens: Tensor) -> Tensor:
        return module(tokens.unflatten(1, (height, width))).flatten(1, 2)

    with torch.inference_mode():
        torch.testing.assert_close(mixing(x[:, order]), mixing(x), rtol=0, atol=1e-12)
        torch.testing.assert_close(output(x[:, order]), output(x)[:, order], rtol=0, atol=1e-12)


def test_loudness_of_queries_and_keys_does_not_matter() -> None:
    """Queries and keys have unit length over the tokens: their scale changes no weight."""
    torch.manual_seed(0)
    module: Any = XCA.build(8, 2, Grid(1, 1), impl="eager").double()
    q, k = torch.randn(2, 1, 2, 9, 4, dtype=torch.float64)
    with torch.inference_mode():
        expected = module.channel_mixing(q, k)
        torch.testing.assert_close(module.channel_mixing(7 * q, 0.1 * k), expected)
        torch.testing.assert_close(expected.sum(-1), torch.ones(1, 2, 4, dtype=torch.float64))
