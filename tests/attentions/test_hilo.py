"""HiLo attention (arXiv 2205.13213)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.by_hand import attend
from tests.attentions.draws import Draw, block, case, layers

PARAMS: dict[str, list[Any]] = {
    "window_size": [1, 2, 3, 5],
    "alpha": [0.0, 0.3, 0.5, 0.9, 1.0],
    "qkv_bias": [True, False],
}
PUBLISHED = {"window_size": 2, "alpha": 0.9}, "2.20", "298.30"
COUNTS = [
    (case("hilo", 384, 12, 14, 14, window_size=2, alpha=0.5), None, 83_467_776),
    (case("hilo", 768, 12, 14, 14, window_size=2, alpha=0.9), 2_198_528, 298_296_320),
    # A stage-3 layer of a detection backbone: 4.02 and 2.03 GMACs.
    (case("hilo", 384, 12, 50, 80, window_size=2), None, 4_020_224_000),
    (case("hilo", 384, 12, 50, 80, window_size=4), None, 2_025_553_920),
]
_HIGH = layers({"h_qkv": (36, 12), "h_proj": (12, 12)})
_LOW = layers({"l_q": (12, 12), "l_kv": (24, 12), "l_proj": (12, 12)})
STATES = [  # a share without heads has no parameters
    (case("hilo", 12, 3, 4, 4, alpha=0.0), _HIGH),
    (case("hilo", 12, 3, 4, 4, alpha=1.0), _LOW),
    (case("hilo", 12, 3, 4, 4, window_size=1, alpha=0.0), _LOW),
    (
        case("hilo", 12, 3, 4, 4, alpha=0.5),
        layers({"h_qkv": (24, 12), "h_proj": (8, 8)})
        | layers({"l_q": (4, 12), "l_kv": (8, 12), "l_proj": (4, 4)}),
    ),
]
LOOPS = [case("hilo", 12, 3, 5, 4, window_size=size, alpha=0.5) for size in (2, 3)]
REFUSED = [
    (case("hilo", 16, 4, 4, 4, window_size=0), "window_size must be at least 1, got 0"),
    (
        case("hilo", 16, 4, 4, 4, alpha=1.1),
        "alpha is a share of the heads, between 0 and 1, got 1.1",
    ),
]

HILO = attentions.load("hilo")


@pytest.mark.parametrize(
    ("heads", "alpha", "split"),
    [
        (12, 0.9, (2, 10)),
        (16, 0.9, (2, 14)),
        (12, 0.5, (6, 6)),
        (12, 0.0, (12, 0)),
        (3, 1.0, (0, 3)),
    ],
)
def test_heads_are_split_by_alpha(heads: int, alpha: float, split: tuple[int, int]) -> None:
    """int(heads x alpha) heads are Lo-Fi, the rest Hi-Fi."""
    module: Any = HILO.build(heads * 4, heads, Grid(4, 4), impl="fused", alpha=alpha)
    assert (module.h_heads, module.l_heads) == split


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """Lo-Fi heads see the whole map; Hi-Fi heads alone see their own window, and nothing else."""
    height, width, size = draw.grid.height, draw.grid.width, draw.params["window_size"]
    if size == 1 or int(draw.num_heads * draw.params["alpha"]):
        return torch.ones(height, width, dtype=torch.bool)
    return block(height, row, size)[:, None] & block(width, column, size)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Both parts, written head by head and query by query on the zero-padded map."""
    s, (height, width) = draw.params["window_size"], x.shape[1:3]
    padded = F.pad(x[0], (0, 0, 0, -width % s, 0, -height % s))
    windows = {
        (top, left): padded[top : top + s, left : left + s].flatten(0, 1)
        for top in range(0, height, s)
        for left in range(0, width, s)
    }
    pooled = torch.stack([window.mean(0) for window in windows.values()])
    pooled_k, pooled_v = module.l_kv(pooled).chunk(2, dim=-1)
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            q, _, _ = module.h_qkv(x[0, i, j]).chunk(3)
            _, k, v = module.h_qkv(windows[i // s * s, j // s * s]).chunk(3, dim=-1)
            high = module.h_proj(attend(q, k, v, module.h_heads))
            low = attend(module.l_q(x[0, i, j]), pooled_k, pooled_v, module.l_heads)
            out[0, i, j] = torch.cat((high, module.l_proj(low)))
    return out


def test_low_frequencies_are_all_that_lofi_sees_of_other_tokens() -> None:
    """A change that leaves a window's mean alone reaches Lo-Fi's output at its own tokens only."""
    torch.manual_seed(0)
    module = HILO.build(16, 4, Grid(6, 6), impl="fused", alpha=1.0).double()
    x = torch.randn(1, 6, 6, 16, dtype=torch.float64)
    moved = x.clone()
    moved[0, 2, 2] += 1
    moved[0, 3, 3] -= 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1) > 1e-9
    assert change.nonzero().tolist() == [[2, 2], [3, 3]]
