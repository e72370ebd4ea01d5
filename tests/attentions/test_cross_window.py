"""Cross-shaped window attention (arXiv 2107.00652)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.published import row

PARAMS: dict[str, list[Any]] = {
    "split_size": [1, 2, 3, 7],
    "branches": [1, 2],
    "qkv_bias": [True, False],
}

CROSS = attentions.load("cross_window")


def test_published_row() -> None:
    """2.37 M parameters and 493.28 M MACs at split 7, two branches."""
    assert row("cross_window", split_size=7, branches=2) == ("2.37", "493.28")


def test_exact_counts() -> None:
    """MACs by part at that row: projections, attention in stripes of 98 tokens, convolutions."""
    assert CROSS.macs is not None
    total = CROSS.macs(768, 12, Grid(14, 14), split_size=7)
    assert total == 4 * 196 * 768**2 + 2 * 196 * 98 * 768 + 9 * 196 * 768 == 493_280_256


@pytest.mark.parametrize("branches", [1, 2])
def test_parameters(branches: int) -> None:
    """The names and shapes of qkv, attns and proj in the authors' CSWinBlock."""
    state = CROSS.build(8, 2, Grid(6, 6), impl="fused", branches=branches).state_dict()
    expected: dict[str, tuple[int, ...]] = {
        "qkv.weight": (24, 8),
        "qkv.bias": (24,),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
    }
    for branch in range(branches):
        expected[f"attns.{branch}.get_v.weight"] = (8 // branches, 1, 3, 3)
        expected[f"attns.{branch}.get_v.bias"] = (8 // branches,)
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


@pytest.mark.parametrize(
    ("grid", "split_size"), [(Grid(4, 6), 2), (Grid(5, 4), 3), (Grid(1, 2), 3)], ids=str
)
def test_slow_loop(grid: Grid, split_size: int) -> None:
    """Stripe by stripe, head by head, query by query, on maps that stripes divide or not."""
    torch.manual_seed(0)
    module = CROSS.build(16, 4, grid, impl="eager", split_size=split_size).double()
    x = torch.randn(1, grid.height, grid.width, 16, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, split_size), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, split_size: int) -> Tensor:
    """The first half of the heads in vertical stripes, the second in those of the transpose."""
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


@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    split_size=st.integers(1, 4),
    data=st.data(),
)
def test_a_token_is_seen_from_the_cross_of_its_stripes(
    height: int, width: int, split_size: int, data: st.DataObject
) -> None:
    """A change moves the outputs of the token's column stripe and row stripe, and no others."""
    module = CROSS.build(8, 2, Grid(height, width), impl="fused", split_size=split_size).double()
    i, j = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, i, j] += 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1)
    rows = (torch.arange(height) + -height % split_size // 2) // split_size
    columns = (torch.arange(width) + -width % split_size // 2) // split_size
    cross = (rows == rows[i])[:, None] | (columns == columns[j])[None, :]
    assert torch.equal(change > 1e-12, cross)


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


def test_unsupported() -> None:
    """Two branches need an even number of heads; settings outside their range are answered."""
    grid = Grid(14, 14)
    reason = CROSS.reason_against(96, 3, grid)
    assert reason == "two branches share the heads, so num_heads must be even, got 3"
    assert CROSS.reason_against(96, 3, grid, branches=1) is None
    assert CROSS.reason_against(96, 3, Grid(7, 7)) is None
    reason = CROSS.reason_against(96, 2, grid, split_size=0)
    assert reason == "split_size must be at least 1, got 0"
    reason = CROSS.reason_against(96, 2, grid, branches=3)
    assert reason == "branches must be 1 (full attention) or 2 (stripes both ways), got 3"
