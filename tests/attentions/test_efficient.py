"""Efficient attention (arXiv 1812.01243)."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid

PARAMS: dict[str, list[Any]] = {
    "key_channels": [None, 12, 24],
    "value_channels": [None, 12, 36],
}

EFFICIENT = attentions.load("efficient")


def test_exact_counts() -> None:
    """At the benchmark's size as many MACs as XCA: the same d x d product, taken elsewhere."""
    assert EFFICIENT.macs is not None
    assert EFFICIENT.macs(768, 12, Grid(14, 14)) == 481_689_600
    module = EFFICIENT.build(768, 12, Grid(14, 14), impl="eager")
    assert sum(parameter.numel() for parameter in module.parameters()) == 4 * (768**2 + 768)


def test_parameters() -> None:
    """The names and shapes of the authors' EfficientAttention."""
    module = EFFICIENT.build(
        8, 2, Grid(3, 3), impl="eager", key_channels=4, value_channels=6
    ).state_dict()
    assert {key: tuple(value.shape) for key, value in module.items()} == {
        "keys.weight": (4, 8, 1, 1),
        "keys.bias": (4,),
        "queries.weight": (4, 8, 1, 1),
        "queries.bias": (4,),
        "values.weight": (6, 8, 1, 1),
        "values.bias": (6,),
        "reprojection.weight": (8, 6, 1, 1),
        "reprojection.bias": (8,),
    }


def test_slow_loop() -> None:
    """Query by query and head by head, through the token by token weights that it never forms."""
    torch.manual_seed(0)
    params = {"key_channels": 6, "value_channels": 12}
    module = EFFICIENT.build(9, 3, Grid(3, 4), impl="eager", **params).double()
    x = torch.randn(1, 3, 4, 9, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor) -> Tensor:
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


def test_unsupported() -> None:
    """Heads share the widths equally."""

    def reason(**params: int) -> str | None:
        return EFFICIENT.reason_against(8, 4, Grid(3, 3), **params)

    assert reason(key_channels=4, value_channels=12) is None
    multiple = "must be a multiple of num_heads, got"
    assert reason(key_channels=6) == f"key_channels {multiple} 6 and 4"
    assert reason(value_channels=0) == f"value_channels {multiple} 0 and 4"
