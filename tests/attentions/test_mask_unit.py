"""Mask unit attention (arXiv 2306.00989)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.hiera import MaskUnitAttention
from torch import Tensor

from tests.attentions.beside_timm import assert_is_timms
from tests.attentions.by_hand import attend
from tests.attentions.draws import Draw, block, case, layers

PARAMS: dict[str, list[Any]] = {"window_size": [0, 1, 2, 4, 8]}
STATES = [  # the authors' MaskUnitAttention
    (case("mask_unit", 8, 2, 4, 4), layers({"qkv": (24, 8), "proj": (8, 8)}))
]
LOOPS = [
    case("mask_unit", 8, 2, height, width, window_size=size)
    for height, width, size in ((4, 6, 2), (5, 3, 2), (3, 4, 0))
]
REFUSED = [
    (case("mask_unit", 8, 2, 4, 4, window_size=-1), "window_size must be at least 0, got -1")
]


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The whole of the own unit, and nothing beyond its border."""
    size, (height, width) = draw.params["window_size"], (draw.grid.height, draw.grid.width)
    return block(height, row, size or height)[:, None] & block(width, column, size or width)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Query by query over the tokens of its unit."""
    height, width = x.shape[1:3]
    size = draw.params["window_size"]
    tall, wide = size or height, size or width
    padded = F.pad(x[0], (0, 0, 0, -width % wide, 0, -height % tall))
    q, k, v = module.qkv(padded).chunk(3, dim=-1)
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            top, left = i // tall * tall, j // wide * wide
            unit = (slice(top, top + tall), slice(left, left + wide))
            keys, values = (part[unit].flatten(0, 1) for part in (k, v))
            out[0, i, j] = attend(q[i, j], keys, values, draw.num_heads)
    return module.proj(out)


def unrolled(x: Tensor, size: int) -> Tensor:
    """Hiera's order: the position inside a unit before the number of the unit."""
    rows, columns = x.shape[1] // size, x.shape[2] // size
    cut = x.unflatten(1, (rows, size)).unflatten(3, (columns, size))
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 4)


@pytest.mark.parametrize(("height", "width", "size"), [(8, 8, 4), (6, 4, 2), (5, 7, 0)])
def test_is_timms(height: int, width: int, size: int) -> None:
    """timm's MaskUnitAttention inside units, on tokens in its order, and over the whole map."""
    theirs = MaskUnitAttention(24, 24, 3, window_size=size * size, use_mask_unit_attn=size > 0)

    def call(module: Any, x: Tensor) -> Tensor:
        if size == 0:
            return module(x.flatten(1, 2)).view(x.shape)
        rows, columns = height // size, width // size
        out = module(unrolled(x, size)).unflatten(1, (size, size, rows, columns))
        return out.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)

    assert_is_timms(case("mask_unit", 24, 3, height, width, window_size=size), theirs, call=call)
