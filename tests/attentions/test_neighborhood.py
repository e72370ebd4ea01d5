"""Neighborhood attention (arXiv 2204.07143)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid

PARAMS: dict[str, list[Any]] = {
    "kernel_size": [3, 5, 7],
    "relative_position_bias": [True, False],
    "qkv_bias": [True, False],
}

NEIGHBORHOOD = attentions.load("neighborhood")


def test_parameters() -> None:
    """The names and shapes of the authors' NeighborhoodAttention2D."""
    shapes = {
        "qkv.weight": (24, 8),
        "qkv.bias": (24,),
        "rpb": (2, 9, 9),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
    }
    module = NEIGHBORHOOD.build(8, 2, Grid(6, 6), impl="fused", kernel_size=5)
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == shapes
    module = NEIGHBORHOOD.build(
        8, 2, Grid(6, 6), impl="fused", kernel_size=5, relative_position_bias=False
    )
    assert module.state_dict().keys() == shapes.keys() - {"rpb"}


@pytest.mark.parametrize("grid", [Grid(3, 4), Grid(7, 5), Grid(10, 9)], ids=str)
@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_slow_loop(grid: Grid, impl: str) -> None:
    """Query by query over the K x K keys nearest to it, with the bias of key less query."""
    torch.manual_seed(0)
    module: Any = NEIGHBORHOOD.build(8, 2, grid, impl=impl, kernel_size=3).double()
    torch.nn.init.normal_(module.rpb)
    x = torch.randn(1, grid.height, grid.width, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, 3, 2), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, size: int, num_heads: int) -> Tensor:
    height, width, dim = x.shape[1:]
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            q = module.qkv(x[0, i, j])[:dim].view(num_heads, -1)
            scores, values = [], []
            for m in nearest(i, height, size):
                for n in nearest(j, width, size):
                    _, k, v = module.qkv(x[0, m, n]).view(3, num_heads, -1)
                    bias = module.rpb[:, m - i + size - 1, n - j + size - 1]
                    scores.append((q * k).sum(-1) / (dim // num_heads) ** 0.5 + bias)
                    values.append(v)
            weights = torch.stack(scores).softmax(0)[:, :, None]
            out[0, i, j] = module.proj((weights * torch.stack(values)).sum(0).flatten())
    return out


def nearest(position: int, length: int, size: int) -> list[int]:
    """The `size` positions nearest to `position`, by distance."""
    return sorted(sorted(range(length), key=lambda other: abs(other - position))[:size])


@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(5, 19),
    width=st.integers(5, 19),
    kernel_size=st.sampled_from([3, 5]),
    data=st.data(),
)
def test_receptive_field(height: int, width: int, kernel_size: int, data: st.DataObject) -> None:
    """A query sees K x K tokens, itself in the middle, fewer steps from the middle at an edge."""
    grid = Grid(height, width)
    module = NEIGHBORHOOD.build(4, 1, grid, impl="fused", kernel_size=kernel_size).double()
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    x = torch.randn(1, height, width, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module(x)[0, row, column].sum(), x)
    seen = torch.zeros(height, width, dtype=torch.bool)
    rows = nearest(row, height, kernel_size)
    columns = nearest(column, width, kernel_size)
    seen[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    assert seen.sum() == kernel_size**2
    assert torch.equal(gradient[0].abs().amax(-1) > 0, seen)


@pytest.mark.parametrize("impl", ["eager", "fused"])
@pytest.mark.parametrize("size", [3, 7, 11])
def test_kernel_as_large_as_the_map_is_msa(impl: str, size: int) -> None:
    """kernel = map: neighborhood = msa, with the same weights and the same MACs."""
    torch.manual_seed(0)
    grid = Grid(size, size)
    params = {"kernel_size": size, "relative_position_bias": False}
    here = NEIGHBORHOOD.build(8, 2, grid, impl=impl, **params).double()
    spec = attentions.load("msa")
    msa = spec.build(8, 2, grid, impl="eager").double()
    msa.load_state_dict(here.state_dict())
    x = torch.randn(2, size, size, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(here(x), msa(x), rtol=0, atol=1e-12)
    assert NEIGHBORHOOD.macs is not None
    assert spec.macs is not None
    assert NEIGHBORHOOD.macs(8, 2, grid, **params) == spec.macs(8, 2, grid)


def test_commutes_with_translation_inside() -> None:
    """Away from the edges, moving the map moves the output: a window that slides."""
    torch.manual_seed(0)
    module = NEIGHBORHOOD.build(8, 2, Grid(12, 13), impl="fused", kernel_size=3).double()
    x = torch.randn(1, 12, 13, 8, dtype=torch.float64)
    with torch.inference_mode():
        out, moved = module(x), module(torch.roll(x, (2, 1), dims=(1, 2)))
    inside = out[:, 1:9, 1:11]
    torch.testing.assert_close(moved[:, 3:11, 2:12], inside, rtol=0, atol=1e-12)


def test_unsupported() -> None:
    """An even kernel, and a kernel larger than the map."""
    reason = NEIGHBORHOOD.reason_against(8, 2, Grid(9, 9), kernel_size=4)
    assert reason == "kernel_size must be odd and at least 3, got 4"
    reason = NEIGHBORHOOD.reason_against(8, 2, Grid(9, 6), kernel_size=7)
    assert reason == "a 9 x 6 map is smaller than the neighborhood of 7 x 7"
