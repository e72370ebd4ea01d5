"""Window attention: self-attention inside non-overlapping windows.

arXiv 2103.14030 (Swin), W-MSA. Linear in tokens; nothing crosses a window's border.
"""

from __future__ import annotations

from attentions._attend import Impl
from attentions._linear import through_onednn
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import WindowAttention, window_macs, window_on


class Window(WindowAttention):
    """W-MSA. Parameter names as in the authors' WindowAttention.

    window_size             side of the windows in tokens
    relative_position_bias  adds a learned bias for each offset inside the window
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: Grid,
        *,
        window_size: int = 7,
        relative_position_bias: bool = True,
        qkv_bias: bool = True,
        impl: Impl = "fused",
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            grid,
            window_size=window_size,
            shift_size=0,
            relative_position_bias=relative_position_bias,
            qkv_bias=qkv_bias,
            impl=impl,
        )


def computed(
    grid: Grid,
    *,
    window_size: int = 7,
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
    relative_position_bias: bool = True,
    qkv_bias: bool = True,
) -> int:
    """4 N C^2 + 2 N w^2 C, N the padded tokens."""
    padded = computed(grid, window_size=window_size)
    return window_macs(dim, grid, window_size=window_size, computed=padded)


def unsupported(
    dim: int,
    num_heads: int,
    grid: Grid,
    *,
    window_size: int = 7,
    relative_position_bias: bool = True,
    qkv_bias: bool = True,
) -> str | None:
    """Settings outside their range."""
    return None if window_size >= 1 else f"window_size must be at least 1, got {window_size}"


ATTENTION = AttentionSpec(
    module=Window,
    paper=Paper(
        title="Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
        arxiv="2103.14030",
        venue="ICCV 2021",
        code="https://github.com/microsoft/Swin-Transformer",
    ),
    equation="softmax(Q K^T / sqrt(d) + B) V inside each w x w window",
    cost="4NC^2 + 2w^2NC",
    size_rule="pad",
    settings={
        4: {"window_size": 7},
        8: {"window_size": 7},
        16: {"window_size": 7},
        32: {"window_size": 7},
    },
    impls=("eager", "fused"),
    finish=through_onednn,
    kernels="scaled_dot_product_attention",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "padding is attended to: padded tokens carry the bias of qkv, as in the authors' code",
        "a map no longer than the window is one window along that side",
    ),
)
