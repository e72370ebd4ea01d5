"""SRA: spatial-reduction attention, keys and values from a strided convolution of the map.

arXiv 2102.12122 (PVT). Every token attends to the map reduced R times along each side.
"""

from __future__ import annotations

from attentions._attend import Impl
from attentions._linear import through_onednn
from attentions._reduction import StridedReduction, reason_against_ratio, strided_reduction_macs
from attentions._spec import AttentionSpec, Grid, Paper


class SRA(StridedReduction):
    """Spatial-reduction attention. Parameter names as in the authors' code: q, kv, sr, norm, proj.

    sr_ratio  R, the side of the reduction; 1 reduces nothing, and has neither sr nor norm
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: Grid,
        *,
        sr_ratio: int = 2,
        qkv_bias: bool = True,
        impl: Impl = "fused",
    ) -> None:
        super().__init__(dim, num_heads, sr_ratio=sr_ratio, qkv_bias=qkv_bias, impl=impl)


def macs(dim: int, num_heads: int, grid: Grid, *, sr_ratio: int = 2, qkv_bias: bool = True) -> int:
    """2 N C^2 + 2 M C^2 + 2 N M C + M R^2 C^2 + 5 M C, M = floor(H / R) floor(W / R)."""
    return strided_reduction_macs(dim, grid, sr_ratio=sr_ratio)


def unsupported(
    dim: int, num_heads: int, grid: Grid, *, sr_ratio: int = 2, qkv_bias: bool = True
) -> str | None:
    """A map smaller than the reduction leaves no key."""
    return reason_against_ratio(grid, sr_ratio)


ATTENTION = AttentionSpec(
    module=SRA,
    paper=Paper(
        title="Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction "
        "without Convolutions",
        arxiv="2102.12122",
        venue="ICCV 2021",
        code="https://github.com/whai362/PVT",
    ),
    equation="softmax(Q K'^T / sqrt(d)) V', K' and V' from LayerNorm(Conv_RxR(x))",
    cost="(3 + 2/R^2)NC^2 + 2N^2C/R^2",
    size_rule="floor",
    settings={4: {"sr_ratio": 8}, 8: {"sr_ratio": 4}, 16: {"sr_ratio": 2}, 32: {"sr_ratio": 1}},
    impls=("eager", "fused"),
    finish=through_onednn,
    kernels="scaled_dot_product_attention",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the reduction has R^2 C^2 weights: at R = 2 as many as the whole of MSA",
        "rows and columns beyond a multiple of R are seen by no key",
    ),
)
