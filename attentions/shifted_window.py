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
    swin_computed,
    swin_macs,
    swin_unsupported,
)


@dataclass(frozen=True, kw_only=True)
class Params(SwinParams):
    """Hyper-parameters of SW-MSA: those of W-MSA, and the shift.

    shift_size  tokens that the windows are moved by, under window_size
    """

    shift_size: int = 3


class ShiftedWindow(SwinAttention):
    """SW-MSA. Parameter names as in the authors' WindowAttention."""

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__(dim, num_heads, grid, params, impl, shift_size=params.shift_size)


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
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=swin_macs,
    computed=swin_computed,
    unsupported=unsupported,
    traps=(
        "no shift along a side that is no longer than the window",
        "the mask is made once for the grid, not on every call",
        "fused takes windows as heads, since a kernel repeats a bias for images, not for windows",
    ),
)
