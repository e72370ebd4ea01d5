"""Recursive gated convolution (arXiv 2207.14284)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.by_hand import depthwise, pointwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"order": [1, 2, 3, 4, 5], "s": [1.0, 1 / 3]}
PUBLISHED = {"order": 4, "s": 1 / 3}, "2.23", "436.51"
COUNTS = [(case("gnconv", 768, 12, 14, 14, order=4), 2_232_192, 436_512_384)]
STATES = [  # the authors' gnconv
    (
        case("gnconv", 8, 2, 3, 3, order=3),
        layers({"proj_in": (16, 8, 1, 1), "dwconv": (14, 1, 7, 7), "proj_out": (8, 8, 1, 1)})
        | layers({"pws.0": (4, 2, 1, 1), "pws.1": (8, 4, 1, 1)}),
    )
]
LOOPS = [case("gnconv", 8, 1, 4, 5, order=order, s=0.7) for order in (1, 2, 4)]
REFUSED = [
    (case("gnconv", 48, 2, 3, 3, order=5), None),
    (case("gnconv", 40, 2, 3, 3, order=5), "order 5 needs a dim divisible by 16, got 40"),
    (case("gnconv", 8, 2, 3, 3, order=0), "order must be at least 1, got 0"),
]

GNCONV = attentions.load("gnconv")


def test_settings_are_the_authors() -> None:
    """Orders 2 to 5 from the finest stage to the coarsest, s exactly 1 / 3 in each."""
    for order, stride in enumerate((4, 8, 16, 32), start=2):
        assert GNCONV.settings_at(stride) == {"order": order, "s": 1 / 3}


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """7 x 7 whatever the order: all gates come from one convolution."""
    rows = (torch.arange(draw.grid.height) - row).abs() <= 3
    return rows[:, None] & ((torch.arange(draw.grid.width) - column).abs() <= 3)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """p_0 times its gate, then widened and gated until all channels are there."""
    order = draw.params["order"]
    widths = [8 // 2 ** (order - 1 - k) for k in range(order)]
    p, q = pointwise(module.proj_in, x[0]).split([widths[0], sum(widths)], dim=-1)
    gates = (0.7 * depthwise(module.dwconv, q)).split(widths, dim=-1)
    p = p * gates[0]
    for widen, gate in zip(module.pws, gates[1:], strict=True):
        p = pointwise(widen, p) * gate
    return pointwise(module.proj_out, p)[None]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_is_a_polynomial_of_degree_order_plus_one(order: int) -> None:
    """Without biases, t times the input gives t^(order + 1) times the output."""
    torch.manual_seed(0)
    module = GNCONV.build(16, 1, Grid(5, 4), impl="eager", order=order).double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    x = torch.randn(1, 5, 4, 16, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(3 * x), 3 ** (order + 1) * module(x), rtol=1e-9, atol=0)
