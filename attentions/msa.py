"""MSA: multi-head self-attention over all tokens.

arXiv 2010.11929 (ViT), after arXiv 1706.03762. Every token attends to every token; the cost is
quadratic in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters."""

    qkv_bias: bool = True


class MSA(nn.Module):
    """Multi-head self-attention. Parameter names as in timm: qkv, proj."""

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.impl = impl
        self.qkv = nn.Linear(dim, 3 * dim, bias=params.qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        qkv = self.qkv(x.flatten(1, 2)).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.num_heads) for part in qkv)
        return self.proj(merge_heads(attend(q, k, v, impl=self.impl))).view(x.shape)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N^2 C."""
    return 4 * grid.tokens * dim**2 + 2 * grid.tokens**2 * dim


ATTENTION = AttentionSpec(
    module=MSA,
    params=Params,
    family="global",
    paper=Paper(
        title="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        arxiv="2010.11929",
        venue="ICLR 2021",
        code="https://github.com/google-research/vision_transformer",
    ),
    equation="softmax(Q K^T / sqrt(d)) V, over all tokens",
    cost="4NC^2 + 2N^2C",
    size_rule="any",
    settings={4: {}, 8: {}, 16: {}, 32: {}},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=macs,
    traps=(
        "quadratic in tokens: their products are 11% of its MACs at 14 x 14 tokens and dim 768, "
        "84% at 50 x 80 and dim 384",
    ),
)
