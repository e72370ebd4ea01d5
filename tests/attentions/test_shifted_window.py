"""Shifted window attention, SW-MSA (arXiv 2103.14030)."""

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
    "window_size": [2, 3, 7],
    "shift_size": [0, 1, 3],
    "relative_position_bias": [True, False],
    "qkv_bias": [True, False],
}

SHIFTED = attentions.load("shifted_window")


def test_published_row() -> None:
    """2.36 M parameters and 477.17 M MACs at window 7, shift 3, without the relative bias."""
    params = {"window_size": 7, "shift_size": 3, "relative_position_bias": False}
    assert row("shifted_window", **params) == ("2.36", "477.17")


def test_parameters() -> None:
    """The names, shapes and buffer of the authors' WindowAttention; the mask is not saved."""
    module = SHIFTED.build(8, 2, Grid(6, 6), impl="fused", window_size=3, shift_size=1)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert shapes == {
        "relative_position_bias_table": (25, 2),
        "relative_position_index": (9, 9),
        "qkv.weight": (24, 8),
        "qkv.bias": (24,),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
    }


@pytest.mark.parametrize("grid", [Grid(6, 6), Grid(5, 8), Grid(3, 8), Grid(3, 3)], ids=str)
@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_slow_loop(grid: Grid, impl: str) -> None:
    """Query by query over the tokens that share its window after the shift, and did before it."""
    torch.manual_seed(0)
    module = SHIFTED.build(8, 2, grid, impl=impl, window_size=3, shift_size=1).double()
    torch.nn.init.normal_(module.relative_position_bias_table)  # type: ignore[arg-type]  # stubs type buffers as Module
    x = torch.randn(1, grid.height, grid.width, 8, dtype=torch.float64)
    with torch.inference_mode():
        expected = slowly(module, x, size=3, shift=1, num_heads=2)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, size: int, shift: int, num_heads: int) -> Tensor:
    """Two tokens attend to each other if they are as far apart in the rolled map as in the map.

    That says, without regions and masks, that the roll did not bring them together.
    """
    dim = x.shape[3]
    padded = F.pad(x[0], (0, 0, 0, -x.shape[2] % size, 0, -x.shape[1] % size))
    height, width = padded.shape[:2]
    down, right = (shift if side > size else 0 for side in (height, width))
    table = module.relative_position_bias_table.view(2 * size - 1, 2 * size - 1, num_heads)
    q, k, v = module.qkv(padded).unflatten(-1, (3, num_heads, dim // num_heads)).unbind(2)
    tokens = [(i, j) for i in range(height) for j in range(width)]
    rolled = {(i, j): ((i - down) % height, (j - right) % width) for i, j in tokens}
    out = torch.empty_like(padded)
    for i, j in tokens:
        a, b = rolled[i, j]
        keys = [
            (m, n)
            for (m, n), (c, d) in rolled.items()
            if (c // size, d // size) == (a // size, b // size) and (c - a, d - b) == (m - i, n - j)
        ]
        mixed = []
        for head in range(num_heads):
            scores = [
                q[i, j, head] @ k[m, n, head] / (dim // num_heads) ** 0.5
                + table[i - m + size - 1, j - n + size - 1, head]
                for m, n in keys
            ]
            weights = torch.stack(scores).softmax(0)
            mixed.append(weights @ torch.stack([v[m, n, head] for m, n in keys]))
        out[i, j] = module.proj(torch.cat(mixed))
    return out[None, : x.shape[1], : x.shape[2]]


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 12), width=st.integers(1, 12), window_size=st.integers(1, 5))
def test_no_shift_is_window_attention(height: int, width: int, window_size: int) -> None:
    """shifted_window(shift 0) = window."""
    grid, params = Grid(height, width), {"window_size": window_size}
    shifted = SHIFTED.build(8, 2, grid, impl="fused", shift_size=0, **params).double()
    window = attentions.load("window").build(8, 2, grid, impl="fused", **params).double()
    window.load_state_dict(shifted.state_dict())
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(shifted(x), window(x))


def test_window_as_large_as_the_map_is_not_shifted() -> None:
    """Nothing is rolled, and nothing masked, where one window holds the map."""
    torch.manual_seed(0)
    grid, params = Grid(7, 7), {"window_size": 7}
    shifted = SHIFTED.build(8, 2, grid, impl="fused", shift_size=3, **params).double()
    window = attentions.load("window").build(8, 2, grid, impl="fused", **params).double()
    window.load_state_dict(shifted.state_dict())
    x = torch.randn(1, 7, 7, 8, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(shifted(x), window(x))


def test_neighbours_of_two_windows_meet() -> None:
    """A token at a border of the plain windows moves tokens beyond it, never the opposite edge."""
    torch.manual_seed(0)
    module = SHIFTED.build(8, 2, Grid(9, 9), impl="fused", window_size=3, shift_size=1).double()
    x = torch.randn(1, 9, 9, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, 2, 2] += 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1) > 1e-12
        moved = x.clone()
        moved[0, 0, 0] += 1
        corner = (module(moved) - module(x))[0].abs().amax(-1) > 1e-12
    assert change.nonzero().tolist() == [[i, j] for i in (1, 2, 3) for j in (1, 2, 3)]
    assert corner.nonzero().tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_mask_follows_the_map(dtype: torch.dtype) -> None:
    """A map of another size than the module was built for is masked for its own size."""
    torch.manual_seed(0)
    params = {"window_size": 3, "shift_size": 1}
    built_for_it = SHIFTED.build(8, 2, Grid(12, 9), impl="fused", **params).to(dtype)
    other = SHIFTED.build(8, 2, Grid(6, 6), impl="fused", **params).to(dtype)
    other.load_state_dict(built_for_it.state_dict())
    x = torch.randn(1, 12, 9, 8, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(other(x), built_for_it(x))


def test_unsupported() -> None:
    """The shift is less than a window."""
    grid = Grid(8, 8)
    reason = SHIFTED.reason_against(8, 2, grid, window_size=3, shift_size=3)
    assert reason == "shift_size must be between 0 and 2, got 3"
    reason = SHIFTED.reason_against(8, 2, grid, window_size=0)
    assert reason == "window_size must be at least 1, got 0"
