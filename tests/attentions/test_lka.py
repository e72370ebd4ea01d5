"""Large kernel attention (arXiv 2202.09741)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.published import row

PARAMS: dict[str, list[Any]] = {
    "local_kernel": [1, 3, 5],
    "dilated_kernel": [3, 7],
    "dilation": [1, 2, 3],
}

LKA = attentions.load("lka")


def test_published_row() -> None:
    """1.83 M parameters and 357.96 M MACs."""
    assert row("lka") == ("1.83", "357.96")


def test_exact_counts() -> None:
    """The two counts behind the published row."""
    assert LKA.macs is not None
    assert LKA.macs(768, 12, Grid(14, 14)) == 357_955_584
    module = LKA.build(768, 12, Grid(14, 14), impl="eager")
    assert sum(parameter.numel() for parameter in module.parameters()) == 1_830_144


def test_parameters() -> None:
    """The names and shapes of the authors' Attention."""
    state = LKA.build(8, 2, Grid(3, 3), impl="eager").state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "proj_1.weight": (8, 8, 1, 1),
        "proj_1.bias": (8,),
        "spatial_gating_unit.conv0.weight": (8, 1, 5, 5),
        "spatial_gating_unit.conv0.bias": (8,),
        "spatial_gating_unit.conv_spatial.weight": (8, 1, 7, 7),
        "spatial_gating_unit.conv_spatial.bias": (8,),
        "spatial_gating_unit.conv1.weight": (8, 8, 1, 1),
        "spatial_gating_unit.conv1.bias": (8,),
        "proj_2.weight": (8, 8, 1, 1),
        "proj_2.bias": (8,),
    }


def test_slow_loop() -> None:
    """Tap by tap: 5 x 5, then 7 x 7 at distance 3, mixed, multiplied, mixed, added to x."""
    torch.manual_seed(0)
    module: Any = LKA.build(6, 1, Grid(6, 5), impl="eager").double()
    x = torch.randn(1, 6, 5, 6, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor) -> Tensor:
    gate = module.spatial_gating_unit
    projected = pointwise(module.proj_1, x[0])
    u = projected * 0.5 * (1 + torch.erf(projected / 2**0.5))
    a = depthwise(gate.conv0, u, distance=1)
    a = depthwise(gate.conv_spatial, a, distance=3)
    a = pointwise(gate.conv1, a)
    return x + pointwise(module.proj_2, u * a)


def pointwise(conv: Any, image: Tensor) -> Tensor:
    return image @ conv.weight[:, :, 0, 0].T + conv.bias


def depthwise(conv: Any, image: Tensor, *, distance: int) -> Tensor:
    height, width, _ = image.shape
    kernel = conv.weight[:, 0]
    middle = kernel.shape[1] // 2
    out = conv.bias.expand_as(image).clone()
    for i in range(height):
        for j in range(width):
            for a in range(kernel.shape[1]):
                for b in range(kernel.shape[2]):
                    y, z = i + (a - middle) * distance, j + (b - middle) * distance
                    if 0 <= y < height and 0 <= z < width:
                        out[i, j] += kernel[:, a, b] * image[y, z]
    return out


@pytest.mark.parametrize(
    ("kernels", "reach"), [((5, 7, 3), 11), ((3, 3, 2), 3), ((1, 3, 1), 1)], ids=str
)
def test_receptive_field(kernels: tuple[int, int, int], reach: int) -> None:
    """A token moves the square around it and nothing else: 23 x 23 at the authors' setting."""
    torch.manual_seed(0)
    local_kernel, dilated_kernel, dilation = kernels
    module = LKA.build(
        8,
        1,
        Grid(25, 26),
        impl="eager",
        local_kernel=local_kernel,
        dilated_kernel=dilated_kernel,
        dilation=dilation,
    ).double()
    x = torch.randn(1, 25, 26, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, 12, 13] += 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1) > 1e-12
    expected = torch.zeros(25, 26, dtype=torch.bool)
    expected[12 - reach : 13 + reach, 13 - reach : 14 + reach] = True
    assert torch.equal(change, expected)


def test_residual_is_inside() -> None:
    """With a gate of zero the output is the input."""
    module: Any = LKA.build(8, 1, Grid(4, 4), impl="eager")
    with torch.no_grad():
        module.spatial_gating_unit.conv1.weight.zero_()
        module.spatial_gating_unit.conv1.bias.zero_()
        module.proj_2.bias.zero_()
    x = torch.randn(1, 4, 4, 8)
    assert torch.equal(module(x), x)


def test_unsupported() -> None:
    """An even side has no centre; a distance of 0 is none."""

    def reason(**params: int) -> str | None:
        return LKA.reason_against(8, 2, Grid(3, 3), **params)

    assert reason() is None
    odd = "must be odd, so that a token is at its centre, got"
    assert reason(local_kernel=4) == f"local_kernel {odd} 4"
    assert reason(dilated_kernel=-1) == f"dilated_kernel {odd} -1"
    assert reason(dilation=0) == "dilation must be at least 1, got 0"
