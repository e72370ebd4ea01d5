"""Twins LSA: locally-grouped self-attention, inside non-overlapping windows.

arXiv 2104.13840 (Twins-SVT). Window attention without a position bias; the backbone alternates it
with Twins GSA, which joins the windows.
"""

from __future__ import annotations

from dataclasses import dataclass

from attentions._attend import FeatureMap, Impl
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import WindowAttention, pad_to_multiple


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    window_size  side of the windows in tokens
    """

    window_size: int = 7
    qkv_bias: bool = True


class TwinsLSA(WindowAttention):
    """Locally-grouped self-attention. Parameter names as in the authors' GroupAttention: qkv, proj.

    Maps that do not divide are padded with zeros on the right and at the bottom, unmasked, as in
    the authors' detection code (their classification code takes multiples of the window only).
    So a map smaller than the window is padded to it; `window` cuts its window instead. The
    authors' dropouts are left out, since they are zero in every published model.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        window = params.window_size, params.window_size
        super().__init__(dim, num_heads, window, qkv_bias=params.qkv_bias, impl=impl)

    def forward(self, x: FeatureMap) -> FeatureMap:
        height, width = x.shape[1:3]
        x = self.inside_windows(pad_to_multiple(x, *self.window))
        return self.proj(x[:, :height, :width])


def computed(grid: Grid, params: Params) -> Grid:
    """The grid padded to whole windows."""
    return grid.padded_to(params.window_size, params.window_size)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """3 P C^2 + N C^2 + 2 P w^2 C, N the tokens of the map, P with padding.

    Padding is cut off before the projection, as in the authors' code.
    """
    padded = computed(grid, params).tokens
    return (3 * padded + grid.tokens) * dim**2 + 2 * padded * params.window_size**2 * dim


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.window_size < 2:
        return f"window_size must be at least 2 (1 stands for GSA), got {params.window_size}"
    return None


ATTENTION = AttentionSpec(
    module=TwinsLSA,
    params=Params,
    family="window",
    paper=Paper(
        title="Twins: Revisiting the Design of Spatial Attention in Vision Transformers",
        arxiv="2104.13840",
        venue="NeurIPS 2021",
        code="https://github.com/Meituan-AutoML/Twins",
    ),
    equation="softmax(Q K^T / sqrt(d)) V inside each w x w window",
    cost="4NC^2 + 2w^2NC",
    size_rule="pad",
    settings={
        4: {"window_size": 7},
        8: {"window_size": 7},
        16: {"window_size": 7},
        32: {"window_size": 7},
    },
    space={"window_size": (2, 7, 14)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "half of T-MSA: the backbone alternates it with twins_gsa, layer by layer",
        "padding is attended to: padded tokens carry the bias of qkv, as in the authors' code",
    ),
)
