"""Linear SRA: spatial-reduction attention to a map pooled to a fixed size, linear in tokens.

arXiv 2106.13797 (PVT v2). Keys and values come from the map average-pooled to P x P, whatever
its size, then a 1 x 1 convolution, LayerNorm and GELU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl
from attentions._reduction import ReducedAttention
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    pool_size  P, the side of the pooled map
    """

    pool_size: int = 7
    qkv_bias: bool = True


class LinearSRA(ReducedAttention):
    """Linear spatial-reduction attention. Parameter names as in the authors' Attention with
    linear=True: q, kv, sr, norm, proj. Their dropouts are left out, since they are zero in every
    published model.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias=params.qkv_bias, impl=impl)
        self.pool_size = params.pool_size
        self.sr = nn.Conv2d(dim, dim, kernel_size=1)
        self.norm = nn.LayerNorm(dim)

    def reduce(self, x: FeatureMap) -> Float[Tensor, "batch keys dim"]:
        """GELU(LayerNorm(Conv_1x1(AvgPool(x))))."""
        pooled = F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), self.pool_size)
        return F.gelu(self.norm(self.sr(pooled).permute(0, 2, 3, 1).flatten(1, 2)))


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """2 N C^2 + 3 M C^2 + 2 N M C + 5 M C + N C, M = P^2.

    The last two are LayerNorm and the adaptive pooling, which fvcore counts at one per input
    element (it counts no other pooling).
    """
    keys = params.pool_size**2
    products = (2 * grid.tokens + 3 * keys) * dim**2 + 2 * grid.tokens * keys * dim
    return products + 5 * keys * dim + grid.tokens * dim


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    size = params.pool_size
    return None if size >= 1 else f"pool_size must be at least 1, got {size}"


ATTENTION = AttentionSpec(
    module=LinearSRA,
    params=Params,
    family="reduced",
    paper=Paper(
        title="PVT v2: Improved Baselines with Pyramid Vision Transformer",
        arxiv="2106.13797",
        venue="Computational Visual Media 2022",
        code="https://github.com/whai362/PVT",
    ),
    equation="softmax(Q K'^T / sqrt(d)) V', K' and V' from GELU(LN(Conv_1x1(AvgPool_PxP(x))))",
    cost="2NC^2 + 3P^2C^2 + 2P^2NC",
    size_rule="any",
    settings={4: {"pool_size": 7}, 8: {"pool_size": 7}, 16: {"pool_size": 7}, 32: {"pool_size": 7}},
    space={"pool_size": (3, 5, 7)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "saves nothing where the map is P x P already: at stride 32 of a 224 x 224 image",
        "a map smaller than P is repeated up to P x P: more keys than tokens",
        "fvcore counts the adaptive pooling, N C, though it counts no other pooling",
    ),
)
