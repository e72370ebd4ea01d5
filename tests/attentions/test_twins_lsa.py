"""Twins LSA, locally-grouped self-attention (arXiv 2104.13840)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import attentions
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
    size, dim, num_heads = draw.params["window_size"], draw.dim, draw.num_heads
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            window = torch.zeros(size, size, dim, dtype=x.dtype)
            for row in range(size):
                for column in range(size):
                    m, n = i // size * size + row, j // size * size + column
                    if m < x.shape[1] and n < x.shape[2]:
                        window[row, column] = x[0, m, n]
            q = module.qkv(x[0, i, j])[:dim].view(num_heads, -1)
            _, k, v = module.qkv(window).view(size * size, 3, num_heads, -1).unbind(1)
            scores = torch.einsum("hd,mhd->hm", q, k) / (dim // num_heads) ** 0.5
            mixed = torch.einsum("hm,mhd->hd", scores.softmax(-1), v)
            out[0, i, j] = module.proj(mixed.flatten())
    return out
