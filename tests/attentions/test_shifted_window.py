"""Shifted window attention, SW-MSA (arXiv 2103.14030)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.attentions.by_hand import attend
from tests.attentions.draws import Draw, block, case, layers

PARAMS: dict[str, list[Any]] = {
    "window_size": [2, 3, 7],
    "shift_size": [0, 1, 3],
    "relative_position_bias": [True, False],
    "qkv_bias": [True, False],
}
_ROW = {"window_size": 7, "shift_size": 3, "relative_position_bias": False}
PUBLISHED = _ROW, "2.36", "477.17"
STATES = [  # the authors' WindowAttention; the mask is not saved
    (
        case("shifted_window", 8, 2, 6, 6, window_size=3, shift_size=1),
        layers({"qkv": (24, 8), "proj": (8, 8)})
        | {"relative_position_bias_table": (25, 2), "relative_position_index": (9, 9)},
    )
]
LOOPS = [
    case("shifted_window", 8, 2, height, width, window_size=3, shift_size=1)
    for height, width in ((6, 6), (5, 8), (3, 8), (3, 3))
]
REFUSED = [
    (
        case("shifted_window", 8, 2, 8, 8, window_size=3, shift_size=3),
        "shift_size must be between 0 and 2, got 3",
    ),
    (
        case("shifted_window", 8, 2, 8, 8, window_size=0),
        "window_size must be at least 1, got 0",
    ),
]


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The own window of the rolled map, less what the roll brought there from the opposite edge.

    A side that is no longer than the window is not rolled.
    """
    masks = []
    for side, index in ((draw.grid.height, row), (draw.grid.width, column)):
        window = min(draw.params["window_size"], side)
        masks.append(block(side, index, window, draw.params["shift_size"] if side > window else 0))
    return masks[0][:, None] & masks[1]


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Two tokens attend to each other if they are as far apart in the rolled map as in the map.

    That says, without regions and masks, that the roll did not bring them together.
    """
    size, shift = draw.params["window_size"], draw.params["shift_size"]
    padded = F.pad(x[0], (0, 0, 0, -x.shape[2] % size, 0, -x.shape[1] % size))
    height, width = padded.shape[:2]
    down, right = (shift if side > size else 0 for side in (height, width))
    table = module.relative_position_bias_table.view(2 * size - 1, 2 * size - 1, -1)
    q, k, v = module.qkv(padded).chunk(3, dim=-1)
    tokens = [(i, j) for i in range(height) for j in range(width)]
    rolled = {(i, j): ((i - down) % height, (j - right) % width) for i, j in tokens}
    out = torch.empty_like(padded)
    for i, j in tokens:
        a, b = rolled[i, j]
        near = [
            (m, n)
            for (m, n), (c, d) in rolled.items()
            if (c // size, d // size) == (a // size, b // size) and (c - a, d - b) == (m - i, n - j)
        ]
        bias = torch.stack([table[i - m + size - 1, j - n + size - 1] for m, n in near])
        keys, values = (torch.stack([part[place] for place in near]) for part in (k, v))
        out[i, j] = attend(q[i, j], keys, values, draw.num_heads, bias)
    return module.proj(out)[None, : x.shape[1], : x.shape[2]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_mask_follows_the_map(dtype: torch.dtype) -> None:
    """A map of another size than the module was built for is masked for its own size."""
    params = {"window_size": 3, "shift_size": 1}
    built_for_it = case("shifted_window", 8, 2, 12, 9, **params).exact("fused").to(dtype)
    other = case("shifted_window", 8, 2, 6, 6, **params).exact("fused").to(dtype)
    x = torch.randn(1, 12, 9, 8, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(other(x), built_for_it(x))
