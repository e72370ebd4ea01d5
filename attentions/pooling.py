"""Pooling: the average of the neighbourhood less the token itself.

arXiv 2111.11418 (PoolFormer). The token mixer without parameters that asks how much of a
transformer is its attention. Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from attentions._attend import FeatureMap, Impl
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    pool_size  side of the neighbourhood in tokens
    """

    pool_size: int = 3


class Pooling(nn.Module):
    """Average pooling less the identity, as in the authors' Pooling; it has no parameters.

    What lies outside the map does not count in the average. There are no heads: `num_heads` has
    no effect.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.pool_size = params.pool_size

    def forward(self, x: FeatureMap) -> FeatureMap:
        pooled = F.avg_pool2d(
            x.permute(0, 3, 1, 2),
            self.pool_size,
            stride=1,
            padding=self.pool_size // 2,
            count_include_pad=False,
        ).permute(0, 2, 3, 1)
        if self.impl == "fused" and not torch.is_grad_enabled():
            return pooled.sub_(x)  # nothing is kept of it for a backward pass
        return pooled - x


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """0: additions only, which the convention does not count."""
    return 0


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """A neighbourhood without a centre."""
    if params.pool_size < 1 or params.pool_size % 2 == 0:
        return f"pool_size must be odd, so that a token is at its centre, got {params.pool_size}"
    return None


ATTENTION = AttentionSpec(
    module=Pooling,
    params=Params,
    family="convolution",
    paper=Paper(
        title="MetaFormer Is Actually What You Need for Vision",
        arxiv="2111.11418",
        venue="CVPR 2022",
        code="https://github.com/sail-sg/poolformer",
    ),
    equation="AvgPool_KxK(x) - x",
    cost="0 (K^2 NC additions)",
    size_rule="any",
    settings={
        4: {"pool_size": 3},
        8: {"pool_size": 3},
        16: {"pool_size": 3},
        32: {"pool_size": 3},
    },
    space={"pool_size": (3, 5, 7)},
    impls=("eager", "fused"),
    kernels="average pooling on channels-last maps",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "it returns pool(x) - x, so that the residual around it gives pool(x)",
        "0 MACs is not 0 work: it reads and writes the whole map",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
