"""Polarized linear attention, PolaFormer (arXiv 2501.15061)."""

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
from attentions.polarized import parts
from tests.attentions.by_hand import depthwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "alpha": [0.0, 1.5, 4.0],
    "kernel_size": [1, 3, 5],
    "qkv_bias": [True, False],
}
STATES = [  # PolaLinearAttention of the authors' Pola-Swin
    (
        case("polarized", 8, 2, 5, 6),
        layers({"qkvg": (32, 8), "proj": (8, 8), "dwc": (4, 1, 5, 5)})
        | {"power": (1, 2, 1, 4), "scale": (1, 1, 8), "positional_encoding": (1, 30, 8)},
    )
]
LOOPS = [
    case("polarized", 8, 2, 4, 3),
    case("polarized", 12, 3, 2, 5, alpha=1.0, kernel_size=3),
    case("polarized", 8, 1, 1, 1),
]
REFUSED = [
    (case("polarized", 4, 2, 4, 4, kernel_size=1, alpha=0.0), None),
    (
        case("polarized", 15, 3, 4, 4),
        "dim / num_heads must be even, for the values of a head are halved, got 5",
    ),
    (case("polarized", 8, 2, 4, 4, alpha=-0.5), "alpha must be at least 0, got -0.5"),
    *(
        (
            case("polarized", 8, 2, 4, 4, kernel_size=side),
            f"kernel_size must be odd, so that a token is at its centre, got {side}",
        )
        for side in (4, 0, -1)
    ),
]

POLARIZED = attentions.load("polarized")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Pair by pair: products of channels of one sign, and of two, summed apart."""
    scale, power = (
        softplus(module.scale[0, 0]),
        1 + draw.params.get("alpha", 4) / (1 + (-module.power[0, :, 0]).exp()),
    )
    q, k, v, gate = module.qkvg(x[0]).flatten(0, 1).chunk(4, dim=-1)
    q, k = q / scale, (k + module.positional_encoding[0]) / scale
    mixed, local = torch.zeros_like(v), torch.zeros_like(v)
    for head, channels in enumerate(torch.arange(draw.dim).chunk(draw.num_heads)):
        values = v[:, channels]
        image = values.unflatten(0, x.shape[1:3])
        local[:, channels] = depthwise(module.dwc, image).flatten(0, 1)
        for number in range(len(q)):
            both = q[number, channels] * k[:, channels]
            products = both.abs() ** power[head]
            like, unlike = (products * (both > 0)).sum(1), (products * (both < 0)).sum(1)
            eps, half = 1e-6 * len(k), len(channels) // 2
            mixed[number, channels] = torch.cat(
                (
                    like / (like.sum() + eps) @ values[:, :half],
                    unlike / (unlike.sum() + eps) @ values[:, half:],
                )
            )
    return module.proj((mixed + local) * gate).view_as(x)


VECTOR = st.lists(st.floats(-5, 5), min_size=4, max_size=4)


@settings(deadline=None)
@given(query=VECTOR, key=VECTOR)
def test_like_less_unlike_is_the_scalar_product(query: list[float], key: list[float]) -> None:
    """At power 1 the two weights are a scalar product taken apart: none of it is dropped."""
    one = torch.ones(1, dtype=torch.float64)
    q, k = (torch.tensor(vector, dtype=torch.float64) for vector in (query, key))
    like = parts(q, one) @ parts(k, one)
    unlike = parts(q, one) @ parts(k, one).roll(4)
    assert like >= 0
    assert unlike >= 0
    torch.testing.assert_close(like - unlike, q @ k)
    torch.testing.assert_close(like + unlike, q.abs() @ k.abs())


@settings(deadline=None)
@given(vector=VECTOR, power=st.floats(1, 5))
def test_a_channel_is_in_one_part_only(vector: list[float], power: float) -> None:
    """A part is zero where the other is not; negated, the parts change places."""
    x, exponent = torch.tensor(vector, dtype=torch.float64), torch.tensor(power)
    positive, negative = parts(x, exponent).chunk(2)
    assert not (positive * negative).any()
    torch.testing.assert_close(positive + negative, x.abs() ** exponent)
    torch.testing.assert_close(parts(-x, exponent), torch.cat((negative, positive)))


@pytest.mark.parametrize("impl", ["eager", "fused"])
@pytest.mark.parametrize("alpha", [0.0, 4.0])
def test_negated_queries_exchange_the_halves_of_values(alpha: float, impl: str) -> None:
    """What was alike is unlike: with the halves of all that follows exchanged too, the output is
    the same.
    """
    draw = case("polarized", 16, 2, 4, 3, alpha=alpha)
    module, negated = draw.exact(impl), draw.exact(impl)
    exchanged = torch.arange(16).view(2, 2, 4).flip(1).flatten()
    x = draw.input(batch=2).double()
    with torch.inference_mode():
        for parameter in (negated.qkvg.weight, negated.qkvg.bias):
            q, _, v, gate = parameter.chunk(4)
            q.neg_()
            v.copy_(v[exchanged])
            gate.copy_(gate[exchanged])
        for parameter in (negated.dwc.weight, negated.dwc.bias):
            parameter.copy_(parameter[exchanged[:8]])
        negated.proj.weight.copy_(negated.proj.weight[:, exchanged])
        torch.testing.assert_close(negated(x), module(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_a_closed_gate_lets_nothing_through(impl: str) -> None:
    """The gate is no sigmoid: at 0 what is left is the bias of the projection."""
    draw = case("polarized", 8, 2, 3, 4)
    module = draw.exact(impl)
    with torch.inference_mode():
        module.qkvg.weight[24:].zero_()
        module.qkvg.bias[24:].zero_()
        out = module(draw.input().double())
        assert torch.equal(out, module.proj.bias.expand_as(out))


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_fp16_holds_the_powers(impl: str) -> None:
    """Features of tens, whose fifth powers leave the range of fp16."""
    draw = case("polarized", 8, 2, 4, 4)
    module: Any = draw.build(impl)
    with torch.inference_mode():
        module.qkvg.weight[:16] *= 50
        module.power.fill_(8.0)
        exact = module.half().double()(draw.input().half().double())
        out = module.half()(draw.input().half())
    torch.testing.assert_close(out.double(), exact, rtol=0.03, atol=0.03)


def test_cost_is_linear_in_tokens() -> None:
    """Each token more costs the same, however large the map."""
    assert POLARIZED.macs is not None
    counts = [POLARIZED.macs(64, 2, Grid(side, 10)) for side in (10, 20, 30)]
    assert counts[2] - counts[1] == counts[1] - counts[0]
