"""Circulant attention (arXiv 2512.21542)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from attentions import Grid
from tests.attentions.draws import Draw, case

PARAMS: dict[str, list[Any]] = {}
STATES = [  # CirculantAttention
    (
        case("circulant", 8, 2, 5, 6),
        {
            "qkv.weight": (24, 8),
            "gate.0.weight": (8, 8),
            "gate.0.bias": (8,),
            "proj.weight": (8, 8),
            "proj.bias": (8,),
        },
    )
]
LOOPS = [
    case("circulant", 8, 2, height, width)
    for height, width in ((4, 6), (5, 3), (1, 7), (6, 1), (1, 1))
]
COUNTS = [  # 16 tokens: log2 is 4
    (case("circulant", 8, 2, 4, 4), 3 * 64 + 2 * 72, 5 * 16 * 64 + 15 * 16 * 8 * 4)
]

SIDES = st.integers(1, 9)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """The circulant matrix of each channel, weight by weight: no transform."""
    height, width = x.shape[1:3]
    q, k, v = (x[0] @ module.qkv.weight.T).chunk(3, dim=-1)
    far = [(i, j) for i in range(height) for j in range(width)]

    def at(image: Tensor, i: int, j: int) -> Tensor:
        return image[i % height, j % width]

    matches = [[at(q, a, b) * at(k, a + i, b + j) for a, b in far] for i, j in far]
    scores = torch.stack([torch.stack(match).sum(0) for match in matches])
    weights = (scores / len(far) ** 0.5).softmax(dim=0)
    mixed = torch.empty_like(x[0])
    for i, j in far:
        seen = torch.stack([at(v, i + down, j + right) for down, right in far])
        mixed[i, j] = (weights * seen).sum(0)
    gate = F.silu(x[0] @ module.gate[0].weight.T + module.gate[0].bias)
    return ((mixed * gate) @ module.proj.weight.T + module.proj.bias)[None]


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """Every token meets every other."""
    return torch.ones(draw.grid.height, draw.grid.width, dtype=torch.bool)


@pytest.mark.parametrize("impl", ["eager", "fused"])
@settings(max_examples=15, deadline=None)
@given(height=SIDES, width=SIDES, down=SIDES, right=SIDES, mirrored=st.booleans())
def test_the_map_is_a_torus(
    impl: str, height: int, width: int, down: int, right: int, mirrored: bool
) -> None:
    """A map moved around the torus, or seen in a mirror, gives the output moved or mirrored."""
    draw = case("circulant", 4, 1, height, width)
    module, x = draw.exact(impl), draw.input().double()

    def seen(image: Tensor) -> Tensor:
        moved = image.roll((down, right), dims=(1, 2))
        return moved.flip(2) if mirrored else moved

    with torch.inference_mode():
        torch.testing.assert_close(module(seen(x)), seen(module(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["eager", "fused"])
@settings(max_examples=15, deadline=None)
@given(height=SIDES, width=SIDES)
def test_rows_and_columns_are_alike(impl: str, height: int, width: int) -> None:
    """A map with rows for columns gives the output with rows for columns."""
    draw, other = case("circulant", 4, 1, height, width), case("circulant", 4, 1, width, height)
    x = draw.input().double()
    with torch.inference_mode():
        expected = draw.exact(impl)(x).transpose(1, 2)
        torch.testing.assert_close(
            other.exact(impl)(x.transpose(1, 2)), expected, rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_without_keys_every_token_gets_the_mean(impl: str) -> None:
    """Where all scores are equal, the values are averaged over the map."""
    draw = case("circulant", 8, 2, 5, 7)
    module, x = draw.exact(impl), draw.input().double()
    with torch.no_grad():
        module.qkv.weight.chunk(3)[1].zero_()
        mean = (x @ module.qkv.weight.chunk(3)[2].T).mean((1, 2), keepdim=True)
        torch.testing.assert_close(
            module(x), module.proj(mean * module.gate(x)), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(2, 9), Grid(14, 14), Grid(33, 50)], ids=str)
def test_matrices_are_the_transform(grid: Grid) -> None:
    """The matrices of `fused` give what torch.fft gives, and back, to the precision of fp64."""
    from attentions.circulant import fourier_matrices, to_map, to_spectrum

    x = torch.randn(2, grid.height, grid.width, 3, dtype=torch.float64)
    matrices = fourier_matrices(grid)
    parts = to_spectrum(x, matrices)
    expected = torch.fft.rfft2(x, dim=(1, 2), norm="ortho")
    torch.testing.assert_close(torch.complex(*parts.unbind(2)), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(to_map(parts, matrices), x, rtol=0, atol=1e-13)
