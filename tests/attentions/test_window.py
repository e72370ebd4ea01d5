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
from tests.attentions.by_hand import attend
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
    size, (height, width) = draw.params["window_size"], x.shape[1:3]
    padded = F.pad(x[0], (0, 0, 0, -width % size, 0, -height % size))
    table = module.relative_position_bias_table.view(2 * size - 1, 2 * size - 1, -1)
    q, k, v = module.qkv(padded).chunk(3, dim=-1)
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            top, left = i // size * size, j // size * size
            window = [(m, n) for m in range(top, top + size) for n in range(left, left + size)]
            bias = torch.stack([table[i - m + size - 1, j - n + size - 1] for m, n in window])
            keys, values = (torch.stack([part[place] for place in window]) for part in (k, v))
            out[0, i, j] = attend(q[i, j], keys, values, draw.num_heads, bias)
    return module.proj(out)


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
