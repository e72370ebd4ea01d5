"""Shifted window attention: windows moved by half their side, so that neighbours meet.

arXiv 2103.14030 (Swin), SW-MSA. The map is rolled, cut into windows and rolled back; a mask
keeps apart what only the roll brought together.
"""

from __future__ import annotations

from attentions._attend import Impl
from attentions._linear import through_onednn
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import WindowAttention, window_macs, window_on


class ShiftedWindow(WindowAttention):
    """SW-MSA. Parameter names as in the authors' WindowAttention.

    window_size             side of the windows in tokens
    shift_size              tokens that the windows are moved by, under window_size
    relative_position_bias  adds a learned bias for each offset inside the window
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: Grid,
        *,
        window_size: int = 7,
        shift_size: int = 3,
        relative_position_bias: bool = True,
        qkv_bias: bool = True,
        impl: Impl = "fused",
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            grid,
            window_size=window_size,
            shift_size=shift_size,
            relative_position_bias=relative_position_bias,
            qkv_bias=qkv_bias,
            impl=impl,
        )


def computed(
    grid: Grid,
    *,
    window_size: int = 7,
    shift_size: int = 3,
    relative_position_bias: bool = True,
    qkv_bias: bool = True,
) -> Grid:
    """The grid padded to whole windows."""
    return grid.padded_to(*window_on(grid, window_size))


def macs(
    dim: int,
    num_heads: int,
    grid: Grid,
    *,
    window_size: int = 7,
    shift_size: int = 3,
    relative_position_bias: bool = True,
    qkv_bias: bool = True,
) -> int:
    """4 N C^2 + 2 N w^2 C, N the padded tokens: the shift moves no arithmetic."""
    padded = computed(grid, window_size=window_size)
    return window_macs(dim, grid, window_size=window_size, computed=padded)


def unsupported(
    dim: int,
    num_heads: int,
    grid: Grid,
    *,
    window_size: int = 7,
    shift_size: int = 3,
    relative_position_bias: bool = True,
    qkv_bias: bool = True,
) -> str | None:
    """Settings outside their range."""
    if window_size < 1:
        return f"window_size must be at least 1, got {window_size}"
    if not 0 <= shift_size < window_size:
        return f"shift_size must be between 0 and {window_size - 1}, got {shift_size}"
    return None


ATTENTION = AttentionSpec(
    module=ShiftedWindow,
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
    impls=("eager", "fused"),
    finish=through_onednn,
    kernels="scaled_dot_product_attention",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "no shift along a side that is no longer than the window",
        "the mask is made once for the grid, not on every call",
    ),
)
