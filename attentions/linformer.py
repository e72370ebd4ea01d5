"""Linformer: attention to k learned combinations of the tokens.

arXiv 2006.04768. Keys and values are projected along the token axis, from N tokens to k, by
matrices that are learned for one N. Linear in tokens for a constant k.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    k            tokens that keys and values are projected to
    one_kv_head  one head of keys and values, shared by all heads of queries
    share_kv     values are the keys: neither to_v nor proj_v
    """

    k: int = 256
    one_kv_head: bool = False
    share_kv: bool = False
    qkv_bias: bool = False


class Linformer(nn.Module):
    """Linformer self-attention. Parameter names as in lucidrains' LinformerSelfAttention.

    They are to_q, to_k, proj_k, to_v, proj_v, to_out. That code also takes fewer tokens than it
    was built for, by the first rows of its projections; out, since a feature map is cut in two
    dimensions, not one.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.share_kv = params.share_kv
        self.impl: Impl = impl
        self.kv_heads = 1 if params.one_kv_head else num_heads
        kv_dim = self.kv_heads * (dim // num_heads)
        self.to_q = nn.Linear(dim, dim, bias=params.qkv_bias)
        self.to_k = nn.Linear(dim, kv_dim, bias=params.qkv_bias)
        self.proj_k = _projection(grid.tokens, params.k)
        if not params.share_kv:
            self.to_v = nn.Linear(dim, kv_dim, bias=params.qkv_bias)
            self.proj_v = _projection(grid.tokens, params.k)
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        tokens = x.flatten(1, 2)
        q = split_heads(self.to_q(tokens), self.num_heads)
        key = self._combine(tokens, self.to_k, self.proj_k)
        value = key if self.share_kv else self._combine(tokens, self.to_v, self.proj_v)
        return self.to_out(merge_heads(attend(q, key, value, impl=self.impl))).view(x.shape)

    def _combine(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        layer: nn.Linear,
        projection: Float[Tensor, "tokens k"],
    ) -> Float[Tensor, "batch heads k head_dim"]:
        """E (X W + 1 b), or with fewer products where k is less than the tokens, (E X) W + E 1 b.

        Each matrix product is of one image's tokens with weights that all images share.
        """
        if self.impl == "eager" or projection.shape[1] >= projection.shape[0]:
            combined = projection.T @ layer(tokens)
        else:
            combined = F.linear(projection.T @ tokens, layer.weight)
            if layer.bias is not None:
                combined = combined + projection.sum(dim=0)[:, None] * layer.bias
        return split_heads(combined, self.kv_heads).expand(-1, self.num_heads, -1, -1)


def _projection(tokens: int, k: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(tokens, k).uniform_(-(k**-0.5), k**-0.5))


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 4 N k C; less where heads, or keys and values, are shared."""
    kv_dim = dim // num_heads if params.one_kv_head else dim
    projected = (1 if params.share_kv else 2) * kv_dim
    return grid.tokens * (2 * dim**2 + projected * dim + projected * params.k + 2 * params.k * dim)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    return None if params.k >= 1 else f"k must be at least 1, got {params.k}"


ATTENTION = AttentionSpec(
    module=Linformer,
    params=Params,
    family="reduced",
    paper=Paper(
        title="Linformer: Self-Attention with Linear Complexity",
        arxiv="2006.04768",
        venue="arXiv 2020",
        code="https://github.com/lucidrains/linformer",
    ),
    equation="softmax(Q (E K)^T / sqrt(d)) (F V), E and F learned, k x N",
    cost="4NC^2 + 4kNC",
    size_rule="fixed",
    settings={4: {"k": 256}, 8: {"k": 256}, 16: {"k": 256}, 32: {"k": 256}},
    space={"k": (32, 64, 128, 256)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "2 k N of its parameters are tied to N tokens: weights of one resolution fit no other",
        "with k above N / 2 it costs more than MSA: 14 x 14 has fewer tokens than k = 256",
        "names and defaults are lucidrains'; the authors published theirs inside fairseq",
        "published at k = 256, while the script published with the figure says 128",
    ),
)
