"""Twins LSA, locally-grouped self-attention (arXiv 2104.13840)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import attentions
from tests.attentions.by_hand import attend
from tests.attentions.draws import Draw, block, case, layers

PARAMS: dict[str, list[Any]] = {"window_size": [2, 3, 7], "qkv_bias": [True, False]}
STATES = [  # the authors' GroupAttention
    (case("twins_lsa", 8, 2, 7, 7), layers({"qkv": (24, 8), "proj": (8, 8)})),
]
LOOPS = [
    case("twins_lsa", 8, 2, height, width, window_size=3) for height, width in ((4, 5), (2, 4))
]
REFUSED = [
    (
        case("twins_lsa", 8, 2, 4, 4, window_size=1),
        "window_size must be at least 2 (1 stands for GSA), got 1",
    )
]

LSA = attentions.load("twins_lsa")


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The whole of the own window, and nothing beyond its border."""
    size = draw.params["window_size"]
    return block(draw.grid.height, row, size)[:, None] & block(draw.grid.width, column, size)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Query by query over the tokens of its own window of the zero-padded map."""
    size, (height, width) = draw.params["window_size"], x.shape[1:3]
    padded = F.pad(x[0], (0, 0, 0, -width % size, 0, -height % size))
    q, k, v = module.qkv(padded).chunk(3, dim=-1)
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            rows, columns = (slice(n // size * size, n // size * size + size) for n in (i, j))
            keys, values = (part[rows, columns].flatten(0, 1) for part in (k, v))
            out[0, i, j] = attend(q[i, j], keys, values, draw.num_heads)
    return module.proj(out)
