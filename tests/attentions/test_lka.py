"""Large kernel attention (arXiv 2202.09741)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.by_hand import depthwise, pointwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "local_kernel": [1, 3, 5],
    "dilated_kernel": [3, 7],
    "dilation": [1, 2, 3],
}
PUBLISHED: tuple[dict[str, Any], str, str] = {}, "1.83", "357.96"
COUNTS = [(case("lka", 768, 12, 14, 14), 1_830_144, 357_955_584)]
STATES = [  # the authors' Attention
    (
        case("lka", 8, 2, 3, 3),
        layers({"proj_1": (8, 8, 1, 1), "proj_2": (8, 8, 1, 1)})
        | layers({"spatial_gating_unit.conv0": (8, 1, 5, 5)})
        | layers({"spatial_gating_unit.conv_spatial": (8, 1, 7, 7)})
        | layers({"spatial_gating_unit.conv1": (8, 8, 1, 1)}),
    )
]
LOOPS = [case("lka", 6, 1, 6, 5)]
REFUSED = [
    (case("lka", 8, 2, 3, 3), None),
    (
        case("lka", 8, 2, 3, 3, local_kernel=4),
        "local_kernel must be odd, so that a token is at its centre, got 4",
    ),
    (
        case("lka", 8, 2, 3, 3, dilated_kernel=-1),
        "dilated_kernel must be odd, so that a token is at its centre, got -1",
    ),
    (case("lka", 8, 2, 3, 3, dilation=0), "dilation must be at least 1, got 0"),
]

LKA = attentions.load("lka")


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """What two convolutions in a row reach; between them, what lies outside the map is zero."""
    masks = []
    for side, index in ((draw.grid.height, row), (draw.grid.width, column)):
        mask = taps(side, draw.params["local_kernel"], 1)[index].double()
        mask = mask @ taps(side, draw.params["dilated_kernel"], draw.params["dilation"]).double()
        masks.append(mask > 0)
    return masks[0][:, None] & masks[1]


def taps(side: int, kernel: int, distance: int) -> Tensor:
    """Which pairs of positions a kernel with taps at this distance joins."""
    apart = torch.arange(side)[:, None] - torch.arange(side)
    return (apart % distance == 0) & (apart.abs() <= kernel // 2 * distance)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Tap by tap: 5 x 5, then 7 x 7 at distance 3, mixed, multiplied, mixed, added to x."""
    unit, projected = module.spatial_gating_unit, pointwise(module.proj_1, x[0])
    u = projected * 0.5 * (1 + torch.erf(projected / 2**0.5))
    gate = depthwise(unit.conv_spatial, depthwise(unit.conv0, u), dilation=3)
    return x + pointwise(module.proj_2, u * pointwise(unit.conv1, gate))


def test_residual_is_inside() -> None:
    """With a gate of zero the output is the input."""
    module: Any = LKA.build(8, 1, Grid(4, 4), impl="eager")
    with torch.no_grad():
        module.spatial_gating_unit.conv1.weight.zero_()
        module.spatial_gating_unit.conv1.bias.zero_()
        module.proj_2.bias.zero_()
    x = torch.randn(1, 4, 4, 8)
    assert torch.equal(module(x), x)
