"""Neighborhood attention (arXiv 2204.07143)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.by_hand import attend
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "kernel_size": [3, 5, 7],
    "relative_position_bias": [True, False],
    "qkv_bias": [True, False],
}
_QKV = layers({"qkv": (24, 8), "proj": (8, 8)})
STATES = [  # the authors' NeighborhoodAttention2D
    (case("neighborhood", 8, 2, 6, 6, kernel_size=5), _QKV | {"rpb": (2, 9, 9)}),
    (case("neighborhood", 8, 2, 6, 6, kernel_size=5, relative_position_bias=False), _QKV),
]
LOOPS = [
    case("neighborhood", 8, 2, height, width, kernel_size=3)
    for height, width in ((3, 4), (7, 5), (10, 9))
]
REFUSED = [
    (
        case("neighborhood", 8, 2, 9, 9, kernel_size=4),
        "kernel_size must be odd and at least 3, got 4",
    ),
    (
        case("neighborhood", 8, 2, 9, 6, kernel_size=7),
        "a 9 x 6 map is smaller than the neighborhood of 7 x 7",
    ),
]

NEIGHBORHOOD = attentions.load("neighborhood")


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The queries among whose K x K nearest keys the token is."""
    masks = []
    for side, index in ((draw.grid.height, row), (draw.grid.width, column)):
        near = [index in nearest(query, side, draw.params["kernel_size"]) for query in range(side)]
        masks.append(torch.tensor(near))
    return masks[0][:, None] & masks[1]


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Query by query over the K x K keys nearest to it, with the bias of key less query."""
    size, (height, width) = draw.params["kernel_size"], x.shape[1:3]
    q, k, v = module.qkv(x[0]).chunk(3, dim=-1)
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            rows, columns = nearest(i, height, size), nearest(j, width, size)
            near = [(m, n) for m in rows for n in columns]
            bias = torch.stack([module.rpb[:, m - i + size - 1, n - j + size - 1] for m, n in near])
            keys, values = (torch.stack([part[place] for place in near]) for part in (k, v))
            out[0, i, j] = attend(q[i, j], keys, values, draw.num_heads, bias)
    return module.proj(out)


def nearest(position: int, length: int, size: int) -> list[int]:
    """The `size` positions nearest to `position`, by distance."""
    return sorted(sorted(range(length), key=lambda other: abs(other - position))[:size])


def test_commutes_with_translation_inside() -> None:
    """Away from the edges, moving the map moves the output: a window that slides."""
    torch.manual_seed(0)
    module = NEIGHBORHOOD.build(8, 2, Grid(12, 13), impl="fused", kernel_size=3).double()
    x = torch.randn(1, 12, 13, 8, dtype=torch.float64)
    with torch.inference_mode():
        out, moved = module(x), module(torch.roll(x, (2, 1), dims=(1, 2)))
    inside = out[:, 1:9, 1:11]
    torch.testing.assert_close(moved[:, 3:11, 2:12], inside, rtol=0, atol=1e-12)
