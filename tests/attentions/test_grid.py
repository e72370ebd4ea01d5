"""Grid attention (arXiv 2204.01697)."""

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

PARAMS: dict[str, list[Any]] = {
    "grid_size": [1, 2, 3, 7],
    "relative_position_bias": [True, False],
    "qkv_bias": [True, False],
}

GRID = attentions.load("grid")


def test_parameters() -> None:
    """The names and shapes of timm's maxvit_*_tf models."""
    module = GRID.build(8, 2, Grid(6, 6), impl="fused", grid_size=3)
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == {
        "qkv.weight": (24, 8),
        "qkv.bias": (24,),
        "rel_pos.relative_position_bias_table": (2, 5, 5),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
    }


@pytest.mark.parametrize("grid", [Grid(6, 9), Grid(4, 5), Grid(2, 7)], ids=str)
@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_slow_loop(grid: Grid, impl: str) -> None:
    """Query by query over the tokens a whole step away, with the bias of key less query."""
    torch.manual_seed(0)
    module: Any = GRID.build(8, 2, grid, impl=impl, grid_size=3).double()
    torch.nn.init.normal_(module.rel_pos.relative_position_bias_table)
    x = torch.randn(1, grid.height, grid.width, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, 3, 2), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, size: int, num_heads: int) -> Tensor:
    tall, wide = min(size, x.shape[1]), min(size, x.shape[2])
    padded = F.pad(x[0], (0, 0, 0, -x.shape[2] % wide, 0, -x.shape[1] % tall))
    height, width, dim = padded.shape
    down, right = height // tall, width // wide
    table = module.rel_pos.relative_position_bias_table
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            q = module.qkv(padded[i, j])[:dim].view(num_heads, -1)
            scores, values = [], []
            for m in range(i % down, height, down):
                for n in range(j % right, width, right):
                    _, k, v = module.qkv(padded[m, n]).view(3, num_heads, -1)
                    bias = table[:, (m - i) // down + tall - 1, (n - j) // right + wide - 1]
                    scores.append((q * k).sum(-1) / (dim // num_heads) ** 0.5 + bias)
                    values.append(v)
            weights = torch.stack(scores).softmax(0)[:, :, None]
            out[0, i, j] = module.proj((weights * torch.stack(values)).sum(0).flatten())
    return out


@settings(deadline=None, max_examples=20)
@given(
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    grid_size=st.integers(2, 4),
    data=st.data(),
)
def test_sees_tokens_a_whole_step_away(
    rows: int, columns: int, grid_size: int, data: st.DataObject
) -> None:
    """A perturbed token moves the tokens of its own grid, spread over the map, and no other."""
    height, width = rows * grid_size, columns * grid_size
    module = GRID.build(8, 2, Grid(height, width), impl="fused", grid_size=grid_size).double()
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, row, column] += 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1)
    own = torch.zeros(height, width, dtype=torch.bool)
    own[row % rows :: rows, column % columns :: columns] = True
    assert own.sum() == grid_size**2
    assert (change[own] > 0).all()
    assert (change[~own] == 0).all()


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 4), columns=st.integers(1, 4), grid_size=st.integers(1, 4))
def test_is_window_attention_under_a_transpose(rows: int, columns: int, grid_size: int) -> None:
    """Gather each grid into a window: window attention there is grid attention here.

    Swin's table is the same turned around, since it is indexed by query less key.
    """
    height, width = rows * grid_size, columns * grid_size
    grid = Grid(height, width)
    here: Any = GRID.build(8, 2, grid, impl="eager", grid_size=grid_size).double()
    there = attentions.load("window").build(8, 2, grid, impl="eager", window_size=grid_size)
    state = {key: value for key, value in here.state_dict().items() if "rel_pos" not in key}
    table = here.rel_pos.relative_position_bias_table
    state["relative_position_bias_table"] = table.flip(1, 2).flatten(1).T
    there.double().load_state_dict(state, strict=False)
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    with torch.inference_mode():
        gathered = exchange(x, grid_size, rows, grid_size, columns)
        expected = exchange(there(gathered), rows, grid_size, columns, grid_size)
        torch.testing.assert_close(here(x), expected, rtol=0, atol=1e-12)


def exchange(x: Tensor, *sides: int) -> Tensor:
    """Row a b + c becomes row c a' + a, columns likewise; `sides` are (a', b) of each."""
    cut = x.unflatten(2, sides[2:]).unflatten(1, sides[:2])
    return cut.transpose(3, 4).transpose(1, 2).reshape(x.shape)


def test_grid_as_large_as_the_map_is_msa() -> None:
    """grid >= map: all tokens are one grid."""
    torch.manual_seed(0)
    grid = Grid(5, 7)
    here = GRID.build(8, 2, grid, impl="eager", grid_size=7, relative_position_bias=False).double()
    msa = attentions.load("msa").build(8, 2, grid, impl="eager").double()
    msa.load_state_dict(here.state_dict())
    x = torch.randn(2, 5, 7, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(here(x), msa(x), rtol=0, atol=1e-12)


def test_unsupported() -> None:
    """A grid has at least one token."""
    reason = GRID.reason_against(8, 2, Grid(4, 4), grid_size=0)
    assert reason == "grid_size must be at least 1, got 0"
