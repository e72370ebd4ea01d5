"""Linear spatial-reduction attention (arXiv 2106.13797)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid

PARAMS: dict[str, list[Any]] = {"pool_size": [1, 2, 3, 7], "qkv_bias": [True, False]}

LINEAR = attentions.load("linear_sra")


def test_parameters() -> None:
    """The names and shapes of the authors' Attention with linear=True."""
    module = LINEAR.build(8, 2, Grid(9, 9), impl="fused")
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == {
        "q.weight": (8, 8),
        "q.bias": (8,),
        "kv.weight": (16, 8),
        "kv.bias": (16,),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
        "sr.weight": (8, 8, 1, 1),
        "sr.bias": (8,),
        "norm.weight": (8,),
        "norm.bias": (8,),
    }


@pytest.mark.parametrize("grid", [Grid(6, 8), Grid(5, 7), Grid(2, 1)], ids=str)
def test_slow_loop(grid: Grid) -> None:
    """Pooled cell by cell, then convolved, normalised and bent; attended to query by query."""
    torch.manual_seed(0)
    module = LINEAR.build(8, 2, grid, impl="eager", pool_size=3).double()
    x = torch.randn(1, grid.height, grid.width, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, 3, 2), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, size: int, num_heads: int) -> Tensor:
    """Cell i of a side of n is rows floor(i n / P) to ceil((i + 1) n / P)."""
    height, width, dim = x.shape[1:]
    keys = []
    for i in range(size):
        for j in range(size):
            rows = slice(i * height // size, -(-(i + 1) * height // size))
            columns = slice(j * width // size, -(-(j + 1) * width // size))
            value = module.sr.weight[:, :, 0, 0] @ x[0, rows, columns].mean((0, 1)) + module.sr.bias
            deviation = (value.var(correction=0) + module.norm.eps).sqrt()
            value = (value - value.mean()) / deviation * module.norm.weight + module.norm.bias
            value = value * (1 + torch.erf(value / math.sqrt(2))) / 2
            keys.append(module.kv(value).view(2, num_heads, dim // num_heads))
    k, v = torch.stack(keys, dim=2)
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            q = module.q(x[0, i, j]).view(num_heads, -1)
            scores = torch.einsum("hd,hmd->hm", q, k) / (dim // num_heads) ** 0.5
            mixed = torch.einsum("hm,hmd->hd", scores.softmax(-1), v)
            out[0, i, j] = module.proj(mixed.flatten())
    return out


def test_cost_is_linear_in_tokens() -> None:
    """Each token more costs the same, however large the map."""
    assert LINEAR.macs is not None
    counts = [LINEAR.macs(64, 2, Grid(side, 10)) for side in (10, 20, 30)]
    assert counts[2] - counts[1] == counts[1] - counts[0]


def test_change_that_pooling_does_not_see_stays_where_it_is() -> None:
    """Two opposite changes in one pooled cell move the outputs of their own tokens only."""
    torch.manual_seed(0)
    module = LINEAR.build(8, 2, Grid(6, 6), impl="fused", pool_size=2).double()
    x = torch.randn(1, 6, 6, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, 0, 0] += 1
    moved[0, 2, 1] -= 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1) > 1e-9
    assert change.nonzero().tolist() == [[0, 0], [2, 1]]


def test_unsupported() -> None:
    """The pooled map has at least one cell."""
    reason = LINEAR.reason_against(8, 2, Grid(4, 4), pool_size=0)
    assert reason == "pool_size must be at least 1, got 0"
