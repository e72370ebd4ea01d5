"""SRA: spatial-reduction attention, keys and values from a strided convolution of the map.

arXiv 2102.12122 (PVT). Every token attends to the map reduced R times along each side.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import Impl, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper


class SRA(nn.Module):
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
        super().__init__()
        self.num_heads = num_heads
        self.sr_ratio = sr_ratio
        self.impl: Impl = impl
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        if sr_ratio > 1:
            self.sr = nn.Conv2d(dim, dim, kernel_size=sr_ratio, stride=sr_ratio)
            self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: Float[Tensor, "batch height width dim"]
    ) -> Float[Tensor, "batch height width dim"]:
        reduced = x.flatten(1, 2)
        q = split_heads(self.q(reduced), self.num_heads)
        if self.sr_ratio > 1:
            reduced = self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
            reduced = self.norm(reduced)
        k, v = (split_heads(part, self.num_heads) for part in self.kv(reduced).chunk(2, dim=-1))
        return self.proj(merge_heads(attend(q, k, v, impl=self.impl))).view_as(x)


def macs(dim: int, num_heads: int, grid: Grid, *, sr_ratio: int = 2, qkv_bias: bool = True) -> int:
    """2 N C^2 + 2 M C^2 + 2 N M C, M = floor(H / R) floor(W / R).

    With R > 1 also the convolution, M R^2 C^2, and its normalisation, 5 M C.
    """
    keys = (grid.height // sr_ratio) * (grid.width // sr_ratio)
    total = 2 * (grid.tokens + keys) * dim**2 + 2 * grid.tokens * keys * dim
    if sr_ratio > 1:
        total += keys * sr_ratio**2 * dim**2 + 5 * keys * dim
    return total


def unsupported(
    dim: int, num_heads: int, grid: Grid, *, sr_ratio: int = 2, qkv_bias: bool = True
) -> str | None:
    """A map smaller than the reduction leaves no key."""
    if sr_ratio < 1:
        return f"sr_ratio must be at least 1, got {sr_ratio}"
    if min(grid.height, grid.width) < sr_ratio:
        return f"a {grid} map is smaller than the reduction of {sr_ratio}: no key would be left"
    return None


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
    kernels="scaled_dot_product_attention",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the reduction has R^2 C^2 weights: at R = 2 as many as the whole of MSA",
        "rows and columns beyond a multiple of R are seen by no key",
    ),
)
