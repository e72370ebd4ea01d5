"""ReLU linear attention, LiteMLA (arXiv 2205.14756)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid
from attentions.relu_linear import linear_form, quadratic_form
from tests.attentions.by_hand import depthwise, pointwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"scale": [1, 3, 5, 7]}
STATES = [  # the authors' LiteMLA with one scale and a batch norm
    (
        case("relu_linear", 8, 2, 3, 3),
        layers({"proj.norm": (8,)})
        | {
            "qkv.conv.weight": (24, 8, 1, 1),
            "aggreg.0.0.weight": (24, 1, 5, 5),
            "aggreg.0.1.weight": (24, 4, 1, 1),
            "proj.conv.weight": (8, 16, 1, 1),
            "proj.norm.running_mean": (8,),
            "proj.norm.running_var": (8,),
            "proj.norm.num_batches_tracked": (),
        },
    )
]
# The linear and the quadratic form.
LOOPS = [case("relu_linear", 8, 2, height, width, scale=3) for height, width in ((3, 4), (1, 3))]
REFUSED = [
    (
        case("relu_linear", 8, 2, 3, 3, scale=4),
        "scale must be odd, so that a token is at its centre, got 4",
    )
]


RELU_LINEAR = attentions.load("relu_linear")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Both scales, head by head and pair by pair, the weights written out; then the batch norm."""
    qkv = pointwise(module.qkv.conv, x[0])
    near, mixing = depthwise(module.aggreg[0][0], qkv), module.aggreg[0][1].weight[:, :, 0, 0]
    groups = zip(near.split(4, dim=-1), mixing.split(4), strict=True)
    both = torch.cat([qkv, *(group @ weight.T for group, weight in groups)], dim=-1).flatten(0, 1)
    mixed = []
    for head in both.split(12, dim=-1):  # queries, keys and values of a head lie together
        q, k, v = head.split(4, dim=-1)
        weights = q.clamp(min=0) @ k.clamp(min=0).T
        total = weights.sum(-1, keepdim=True)
        mixed.append(torch.where(total > 0, weights / total, 0.0) @ v)
    projected, norm = pointwise(module.proj.conv, torch.cat(mixed, dim=-1)), module.proj.norm
    scaled = (projected - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    return (scaled * norm.weight + norm.bias).view_as(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
def test_both_forms_are_one_function(dtype: torch.dtype) -> None:
    """The product of keys and values first, or of queries and keys: equal, also with no weight."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 8, 20, dtype=dtype)
    q, k = q.relu(), k.relu()
    q[0, 0, :, 3] = 0
    linear, quadratic = linear_form(q, k, v), quadratic_form(q, k, v)
    torch.testing.assert_close(linear, quadratic)
    assert not linear[0, 0, :, 3].any()


def test_the_cheaper_form_is_taken() -> None:
    """N d (d + 1) or N^2 d multiplications, whichever side of N = d the map is on."""
    assert RELU_LINEAR.macs is not None

    def attention_macs(grid: Grid) -> int:
        assert RELU_LINEAR.macs is not None
        per_token = 5 * 32**2 + 3 * 32 * (25 + 16) + 2 * 32
        return RELU_LINEAR.macs(32, 2, grid) - grid.tokens * per_token

    assert attention_macs(Grid(4, 4)) == 4 * 16 * 16 * 32
    assert attention_macs(Grid(1, 17)) == 4 * 17 * 17 * 32
    assert attention_macs(Grid(5, 20)) == 4 * 100 * 17 * 32


def test_loudness_does_not_sharpen() -> None:
    """ReLU weights have no temperature: t times the input gives t times the output."""
    torch.manual_seed(0)
    module = RELU_LINEAR.build(16, 2, Grid(5, 4), impl="eager").eval().double()
    x = torch.randn(1, 5, 4, 16, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(7 * x), 7 * module(x), rtol=1e-9, atol=1e-12)


def test_aggregation_sees_its_scale() -> None:
    """The second set of queries, keys and values moves within the scale of a moved token."""
    torch.manual_seed(0)
    module: Any = RELU_LINEAR.build(8, 2, Grid(9, 9), impl="eager", scale=5).double()
    x = torch.randn(1, 24, 9, 9, dtype=torch.float64)
    moved = x.clone()
    moved[0, :, 4, 3] += 1
    with torch.inference_mode():
        change = (module.aggreg[0](moved) - module.aggreg[0](x))[0].abs().amax(0) > 0
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[2:7, 1:6] = True
    assert torch.equal(change, expected)


def test_half_precision_holds_many_tokens() -> None:
    """Sums over 128 x 128 tokens leave the range of fp16, not that of the result."""
    torch.manual_seed(0)
    q, k = torch.rand(2, 1, 1, 16, 128 * 128).half() * 8
    v = torch.ones(1, 1, 16, 128 * 128).half()
    torch.testing.assert_close(linear_form(q, k, v), v.float(), rtol=1e-5, atol=0)
