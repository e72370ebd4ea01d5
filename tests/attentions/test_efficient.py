"""Efficient attention (arXiv 1812.01243)."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "key_channels": [None, 12, 24],
    "value_channels": [None, 12, 36],
}
# As many MACs as XCA: the same d x d product, taken elsewhere.
COUNTS = [(case("efficient", 768, 12, 14, 14), 4 * (768**2 + 768), 481_689_600)]
STATES = [  # the authors' EfficientAttention
    (
        case("efficient", 8, 2, 3, 3, key_channels=4, value_channels=6),
        layers({"keys": (4, 8, 1, 1), "queries": (4, 8, 1, 1)})
        | layers({"values": (6, 8, 1, 1), "reprojection": (8, 6, 1, 1)}),
    )
]
LOOPS = [case("efficient", 9, 3, 3, 4, key_channels=6, value_channels=12)]
REFUSED = [
    (case("efficient", 8, 4, 3, 3, key_channels=4, value_channels=12), None),
    (
        case("efficient", 8, 4, 3, 3, key_channels=6),
        "key_channels must be a multiple of num_heads, got 6 and 4",
    ),
    (
        case("efficient", 8, 4, 3, 3, value_channels=0),
        "value_channels must be a multiple of num_heads, got 0 and 4",
    ),
]

EFFICIENT = attentions.load("efficient")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Query by query, head by head, through the token by token weights that it never forms."""
    tokens = x.flatten(0, 2)
    q, k, v = (
        tokens @ conv.weight[:, :, 0, 0].T + conv.bias
        for conv in (module.queries, module.keys, module.values)
    )
    out = torch.empty_like(tokens)
    for i in range(len(tokens)):
        mixed = []
        for head in range(3):
            channels = range(2 * head, 2 * head + 2)
            rho = q[i, list(channels)].exp() / q[i, list(channels)].exp().sum()
            weights = torch.zeros(len(tokens), dtype=torch.float64)
            for weight, channel in zip(rho, channels, strict=True):
                weights += weight * k[:, channel].exp() / k[:, channel].exp().sum()
            mixed.append(weights @ v[:, 4 * head : 4 * head + 4])
        reprojected = module.reprojection.weight[:, :, 0, 0] @ torch.cat(mixed)
        out[i] = reprojected + module.reprojection.bias + tokens[i]
    return out.view_as(x)


@settings(deadline=None, max_examples=10)
@given(height=st.integers(1, 6), width=st.integers(1, 6), seed=st.integers(0, 99))
def test_token_order_does_not_matter(height: int, width: int, seed: int) -> None:
    """Shuffled tokens give the shuffled output."""
    torch.manual_seed(seed)
    module = EFFICIENT.build(12, 3, Grid(height, width), impl="eager").double()
    x = torch.randn(2, height * width, 12, dtype=torch.float64)
    order = torch.randperm(height * width)

    def output(tokens: Tensor) -> Tensor:
        return module(tokens.unflatten(1, (height, width))).flatten(1, 2)

    with torch.inference_mode():
        torch.testing.assert_close(output(x[:, order]), output(x)[:, order], rtol=0, atol=1e-12)


def test_weights_of_a_query_sum_to_one() -> None:
    """Values that are equal at all tokens come back as they are, then the residual is added."""
    torch.manual_seed(0)
    module: Any = EFFICIENT.build(8, 2, Grid(4, 5), impl="eager").double()
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    with torch.inference_mode():
        module.values.weight.zero_()
        constant = module.reprojection(module.values.bias[None, :, None, None]).view(1, 1, 1, 8)
        torch.testing.assert_close(module(x), x + constant, rtol=0, atol=1e-12)
