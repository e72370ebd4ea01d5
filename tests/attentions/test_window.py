"""Window attention, W-MSA (arXiv 2103.14030)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from attentions._windows import merge, partition
from tests.attentions.draws import Draw, block, case, layers

PARAMS: dict[str, list[Any]] = {
    "window_size": [1, 2, 3, 7],
    "relative_position_bias": [True, False],
    "qkv_bias": [True, False],
}
PUBLISHED = {"window_size": 7, "relative_position_bias": False}, "2.36", "477.17"
STATES = [  # the authors' WindowAttention, its buffer included
    (
        case("window", 8, 2, 6, 6, window_size=3),
        layers({"qkv": (24, 8), "proj": (8, 8)})
        | {"relative_position_bias_table": (25, 2), "relative_position_index": (9, 9)},
    )
]
LOOPS = [case("window", 12, 3, 5, 7, window_size=3)]
REFUSED = [(case("window", 8, 2, 4, 4, window_size=0), "window_size must be at least 1, got 0")]

WINDOW = attentions.load("window")


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The whole of the own window, and nothing beyond its border."""
    height, width = draw.grid.height, draw.grid.width
    rows = block(height, row, min(draw.params["window_size"], height))
    return rows[:, None] & block(width, column, min(draw.params["window_size"], width))


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """softmax(Q K^T / sqrt(d) + B) V over the tokens of the own window, query by query."""
    size, num_heads = draw.params["window_size"], draw.num_heads
    height, width, dim = x.shape[1:]
    padded = F.pad(x[0], (0, 0, 0, -width % size, 0, -height % size))
    table = module.relative_position_bias_table.view(2 * size - 1, 2 * size - 1, num_heads)
    head_dim = dim // num_heads
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            q = module.qkv(padded[i, j])[:dim].view(num_heads, head_dim)
            mixed = torch.empty(num_heads, head_dim, dtype=x.dtype)
            for head in range(num_heads):
                scores, values = [], []
                for m in range(i // size * size, i // size * size + size):
                    for n in range(j // size * size, j // size * size + size):
                        _, k, v = module.qkv(padded[m, n]).view(3, num_heads, head_dim)[:, head]
                        bias = table[i - m + size - 1, j - n + size - 1, head]
                        scores.append(q[head] @ k / head_dim**0.5 + bias)
                        values.append(v)
                mixed[head] = torch.stack(scores).softmax(0) @ torch.stack(values)
            out[0, i, j] = module.proj(mixed.flatten())
    return out


@settings(deadline=None, max_examples=20)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    tall=st.integers(1, 4),
    wide=st.integers(1, 4),
)
def test_merge_undoes_partition(rows: int, columns: int, tall: int, wide: int) -> None:
    """Cutting into windows and merging them gives the map back; a window is a rectangle of it."""
    grid = Grid(rows * tall, columns * wide)
    x = torch.randn(2, grid.height, grid.width, 3)
    windows = partition(x, tall, wide)
    assert torch.equal(merge(windows, tall, wide, grid), x)
    last = x[:, -tall:, -wide:].flatten(1, 2)
    assert torch.equal(windows[:, -1], last)
