"""Shifted window attention: windows moved by half their side, so that neighbours meet.

arXiv 2103.14030 (Swin), SW-MSA. The map is rolled, cut into windows and rolled back; a mask
keeps apart what only the roll brought together.
"""

from __future__ import annotations

from dataclasses import dataclass

from attentions._attend import Impl
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import (
    SwinAttention,
    SwinParams,
    swin_unsupported,
    window_macs,
    window_on,
)


@dataclass(frozen=True, kw_only=True)
class Params(SwinParams):
    """Hyper-parameters of SW-MSA: those of W-MSA, and the shift.

    shift_size  tokens that the windows are moved by, under window_size
    by_side     a side of the map that is no longer than the window cuts the window, and is not
                shifted along, by itself; False, as in the authors' classifier: it cuts both sides
                of the window and stops both shifts
    """

    shift_size: int = 3
    by_side: bool = True


class ShiftedWindow(SwinAttention):
    """SW-MSA. Parameter names as in the authors' WindowAttention."""

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        window, shift = windows_of(grid, params)
        super().__init__(dim, num_heads, grid, params, impl, window=window, shift=shift)


def windows_of(grid: Grid, params: Params) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of the windows on this map, and the shifts down and to the right."""
    size, shift = params.window_size, params.shift_size
    shorter = min(grid.height, grid.width)
    if not params.by_side and shorter <= size:
        return (shorter, shorter), (0, 0)
    return window_on(grid, size), (
        shift if grid.height > size else 0,
        shift if grid.width > size else 0,
    )


def computed(grid: Grid, params: Params) -> Grid:
    """The grid padded to whole windows."""
    window, _ = windows_of(grid, params)
    return grid.padded_to(*window)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N w^2 C, N the padded tokens."""
    window, _ = windows_of(grid, params)
    return window_macs(dim, grid, window)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.window_size >= 1 and not 0 <= params.shift_size < params.window_size:
        return f"shift_size must be between 0 and {params.window_size - 1}, got {params.shift_size}"
    return swin_unsupported(dim, num_heads, grid, params)


ATTENTION = AttentionSpec(
    module=ShiftedWindow,
    params=Params,
    family="window",
    paper=Paper(
        title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        arxiv="2103.14030",
        venue="ICCV 2021",
        code="https://github.com/microsoft/Swin-Transformer",
    ),
    equation="softmax(Q K^T / sqrt(d) + B + mask) V inside each w x w window of the rolled map",
    cost="4NC^2 + 2w^2NC",
    size_rule="pad",
    settings={
        4: {"window_size": 7, "shift_size": 3},
        8: {"window_size": 7, "shift_size": 3},
        16: {"window_size": 7, "shift_size": 3},
        32: {"window_size": 7, "shift_size": 3},
    },
    space={"window_size": (2, 7, 14)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "no shift along a side that is no longer than the window, as in timm. There the authors' "
        "classifier drops both shifts and cuts the window to a square (by_side false); their code "
        "for detection keeps both shifts and pads the side to a window",
        "a map is padded before it is rolled, as in the authors' code; timm rolls it first",
        "the mask is made once for the grid, not on every call",
        "fused takes windows as heads, since a kernel repeats a bias for images, not for windows",
    ),
)
