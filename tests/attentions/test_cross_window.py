"""Cross-shaped window attention (arXiv 2107.00652)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.draws import Draw, block, case, layers

PARAMS: dict[str, list[Any]] = {
    "split_size": [1, 2, 3, 7],
    "branches": [1, 2],
    "qkv_bias": [True, False],
}
PUBLISHED = {"split_size": 7, "branches": 2}, "2.37", "493.28"
COUNTS = [(case("cross_window", 768, 12, 14, 14, split_size=7), None, 493_280_256)]
STATES = [  # qkv, attns and proj of the authors' CSWinBlock
    (
        case("cross_window", 8, 2, 6, 6, branches=branches),
        layers({"qkv": (24, 8), "proj": (8, 8)})
        | layers({f"attns.{n}.get_v": (8 // branches, 1, 3, 3) for n in range(branches)}),
    )
    for branches in (1, 2)
]
LOOPS = [
    case("cross_window", 16, 4, height, width, split_size=split_size)
    for height, width, split_size in ((4, 6, 2), (5, 4, 3), (1, 2, 3))
]
REFUSED = [
    (
        case("cross_window", 96, 3, 14, 14),
        "two branches share the heads, so num_heads must be even, got 3",
    ),
    (case("cross_window", 96, 3, 14, 14, branches=1), None),
    (case("cross_window", 96, 3, 7, 7), None),
    (case("cross_window", 96, 2, 14, 14, split_size=0), "split_size must be at least 1, got 0"),
    (
        case("cross_window", 96, 2, 14, 14, branches=3),
        "branches must be 1 (full attention) or 2 (stripes both ways), got 3",
    ),
]

CROSS = attentions.load("cross_window")


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The cross of its column stripe and its row stripe; all with one branch."""
    height, width, size = draw.grid.height, draw.grid.width, draw.params["split_size"]
    if draw.params["branches"] == 1:
        return torch.ones(height, width, dtype=torch.bool)
    rows = block(height, row, size, -(-height % size // 2))
    return rows[:, None] | block(width, column, size, -(-width % size // 2))


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Stripe by stripe, head by head, query by query, on maps that stripes divide or not.

    The first half of the heads in vertical stripes, the second in those of the transpose.
    """
    split_size = draw.params["split_size"]
    qkv = torch.stack(module.qkv(x[0]).chunk(3, dim=-1))
    first, second = (attn.get_v for attn in module.attns)
    down = in_vertical_stripes(qkv[..., :8], split_size, first.weight, first.bias)
    turned = qkv[..., 8:].transpose(1, 2), split_size, second.weight.transpose(2, 3), second.bias
    across = in_vertical_stripes(*turned).transpose(0, 1)
    return module.proj(torch.cat((down, across), dim=-1))[None]


def in_vertical_stripes(qkv: Tensor, split_size: int, kernel: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v + DWConv(v) in each stripe; two heads of four channels.

    q, k and v (3, height, width, 8) get columns of zeros, half on either side.
    """
    _, height, width, _ = qkv.shape
    missing = -width % split_size
    left = missing // 2
    qkv = F.pad(qkv, (0, 0, left, missing - left))
    out = torch.zeros_like(qkv[0])
    for start in range(0, qkv.shape[2], split_size):
        stripe = [(i, start + j) for i in range(height) for j in range(split_size)]
        for i, j in stripe:
            for head in (slice(0, 4), slice(4, 8)):
                keys = torch.stack([qkv[1, r, c, head] for r, c in stripe])
                values = torch.stack([qkv[2, r, c, head] for r, c in stripe])
                out[i, j, head] = (keys @ qkv[0, i, j, head] / 2).softmax(0) @ values
            for r, c in stripe:
                if abs(r - i) <= 1 and abs(c - j) <= 1:
                    out[i, j] += kernel[:, 0, r - i + 1, c - j + 1] * qkv[2, r, c]
            out[i, j] += bias
    return out[:, left : left + width]


@pytest.mark.parametrize(
    ("grid", "branches"), [(Grid(4, 4), 2), (Grid(4, 4), 1), (Grid(3, 5), 1)], ids=str
)
def test_one_branch_is_msa_with_a_convolution(grid: Grid, branches: int) -> None:
    """Asked for, and on a square map of split_size: MSA plus DWConv(V) before its projection."""
    torch.manual_seed(0)
    module = CROSS.build(12, 3, grid, impl="eager", split_size=4, branches=branches).double()
    state = module.state_dict()
    kernel, bias = state.pop("attns.0.get_v.weight"), state.pop("attns.0.get_v.bias")
    msa = attentions.load("msa").build(12, 3, grid, impl="eager").double()
    msa.load_state_dict(state)
    x = torch.randn(2, grid.height, grid.width, 12, dtype=torch.float64)
    with torch.inference_mode():
        v = F.linear(x, state["qkv.weight"], state["qkv.bias"])[..., 24:]
        position = F.conv2d(v.permute(0, 3, 1, 2), kernel, bias, padding=1, groups=12)
        expected = msa(x) + F.linear(position.permute(0, 2, 3, 1), state["proj.weight"])
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


def test_computed_is_the_branch_that_pads_more() -> None:
    """13 x 29 in stripes of 7 is 13 x 35 for the vertical ones and 14 x 29 for the others."""
    assert CROSS.computed is not None
    assert CROSS.computed(Grid(13, 29), split_size=7) == Grid(13, 35)
    assert CROSS.computed(Grid(13, 29), split_size=7, branches=1) == Grid(13, 29)
    assert CROSS.computed(Grid(14, 14), split_size=7) == Grid(14, 14)
