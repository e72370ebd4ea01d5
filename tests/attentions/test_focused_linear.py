"""Focused linear attention, FLatten (arXiv 2308.00442)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import softplus

import attentions
from attentions import Grid
from attentions.focused_linear import focus
from attentions.relu_linear import linear_form
from tests.attentions.by_hand import depthwise
from tests.attentions.draws import Draw, case, layers

# Not 2: where a head has one channel just above zero, its gradient is steep enough to leave the
# budget of fp32 in the draws of test_fused_is_eager, in both implementations.
PARAMS: dict[str, list[Any]] = {
    "focusing_factor": [1, 3, 4],
    "kernel_size": [1, 3, 5],
    "qkv_bias": [True, False],
}
STATES = [  # FocusedLinearAttention of the authors' FLatten-Swin
    (
        case("focused_linear", 8, 2, 5, 6),
        layers({"qkv": (24, 8), "proj": (8, 8), "dwc": (4, 1, 5, 5)})
        | {"scale": (1, 1, 8), "positional_encoding": (1, 30, 8)},
    )
]
LOOPS = [
    case("focused_linear", 8, 2, 4, 3),
    case("focused_linear", 12, 3, 2, 5, focusing_factor=2, kernel_size=3),
    case("focused_linear", 8, 1, 1, 1),
]
REFUSED = [
    (case("focused_linear", 10, 2, 4, 4, kernel_size=1, focusing_factor=1), None),
    (
        case("focused_linear", 8, 2, 4, 4, focusing_factor=0),
        "focusing_factor must be at least 1, got 0",
    ),
    *(
        (
            case("focused_linear", 8, 2, 4, 4, kernel_size=side),
            f"kernel_size must be odd, so that a token is at its centre, got {side}",
        )
        for side in (4, 0, -1)
    ),
]

FOCUSED = attentions.load("focused_linear")
FEATURES = st.lists(st.floats(0.01, 100), min_size=2, max_size=8)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Token by token: features at the authors' powers, and the weights of each head."""
    factor = draw.params.get("focusing_factor", 3)
    q, k, v = module.qkv(x[0]).flatten(0, 1).chunk(3, dim=-1)
    k = k + module.positional_encoding[0]

    def feature(token: Tensor) -> Tensor:
        positive = (token.clamp(min=0) + 1e-6) / softplus(module.scale[0, 0])
        power = positive**factor
        return power / power.square().sum().sqrt() * positive.square().sum().sqrt()

    queries, keys = [feature(token) for token in q], [feature(token) for token in k]
    mixed, local = torch.zeros_like(v), torch.zeros_like(v)
    for channels in torch.arange(draw.dim).chunk(draw.num_heads):
        image = v[:, channels].unflatten(0, x.shape[1:3])
        local[:, channels] = depthwise(module.dwc, image).flatten(0, 1)
        for number, query in enumerate(queries):
            weights = torch.stack([query[channels] @ key[channels] for key in keys])
            weights = weights / (weights.sum() + 1e-6 * len(keys))
            mixed[number, channels] = weights @ v[:, channels]
    return module.proj(mixed + local).view_as(x)


@settings(deadline=None)
@given(values=FEATURES, factor=st.integers(1, 6))
def test_focus_keeps_length_and_order(values: list[float], factor: int) -> None:
    """The length is as before, a larger feature stays larger, and the largest gains."""
    x = torch.tensor(values, dtype=torch.float64)
    focused = focus(x, factor)
    torch.testing.assert_close(focused.norm(), x.norm())
    order = x.argsort()
    assert (focused[order].diff() >= 0).all()
    assert focused.max() >= x.max() * (1 - 1e-12)


@settings(deadline=None)
@given(values=FEATURES, first=st.integers(1, 4), second=st.integers(1, 4))
def test_focus_twice_is_focus_once_more_sharply(
    values: list[float], first: int, second: int
) -> None:
    """Factors multiply, and 1 changes nothing."""
    x = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(focus(focus(x, first), second), focus(x, first * second))
    torch.testing.assert_close(focus(x, 1), x)


@settings(deadline=None)
@given(values=FEATURES, scale=st.floats(0.01, 100))
def test_focus_has_no_loudness(values: list[float], scale: float) -> None:
    """t times the features are focused to t times what they were: their angles decide."""
    x = torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(focus(scale * x, 3), scale * focus(x, 3))


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_factor_one_is_relu_linear_attention(impl: str) -> None:
    """Without focus it is ReLU attention plus the convolution, but for the 1e-6."""
    draw = case("focused_linear", 12, 3, 4, 5, focusing_factor=1)
    module = draw.exact(impl)
    x = draw.input(batch=2).double()
    with torch.inference_mode():
        module.dwc.weight.zero_()
        module.dwc.bias.zero_()
        module.qkv.bias[:24] += 2  # no head without a positive channel, whose weights differ
        q, k, v = module.qkv(x).flatten(1, 2).chunk(3, dim=-1)
        k, scale = k + module.positional_encoding, softplus(module.scale)
        heads = [part.mT.unflatten(1, (3, 4)) for part in (q.relu() / scale, k.relu() / scale, v)]
        mixed = linear_form(*heads).flatten(1, 2).mT
        expected = module.proj(mixed).view_as(x)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("impl", ["eager", "fused"])
@pytest.mark.parametrize("factor", [4, 32])
def test_tokens_without_a_positive_channel_are_finite(factor: int, impl: str) -> None:
    """In fp32 the authors' powers are zero there from a factor of 4, and their quotient no number;
    here all features are alike, and the weights those of a flat query.
    """
    draw = case("focused_linear", 8, 2, 3, 4, focusing_factor=factor)
    module: Any = draw.build(impl)
    with torch.inference_mode():
        module.qkv.bias[:16] = -100.0
        out, exact = module(draw.input()), module.double()(draw.input().double())
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_fp16_holds_the_powers(impl: str) -> None:
    """Features of a hundred, whose third powers leave the range of fp16."""
    draw = case("focused_linear", 8, 2, 4, 4)
    module: Any = draw.build(impl)
    with torch.inference_mode():
        module.qkv.weight[:16] *= 200
        exact = module.half().double()(draw.input().half().double())
        out = module.half()(draw.input().half())
    torch.testing.assert_close(out.double(), exact, rtol=0.02, atol=0.02)


def test_cost_is_linear_in_tokens() -> None:
    """Each token more costs the same, however large the map."""
    assert FOCUSED.macs is not None
    counts = [FOCUSED.macs(64, 2, Grid(side, 10)) for side in (10, 20, 30)]
    assert counts[2] - counts[1] == counts[1] - counts[0]
