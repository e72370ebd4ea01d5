"""XCA: cross-covariance attention, self-attention between channels instead of tokens.

arXiv 2106.09681 (XCiT). In each head the d x d matrix of correlations between the channels of
queries and keys, over all tokens, mixes the channels of the values. Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Heads, Impl, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters."""

    qkv_bias: bool = True


class XCA(nn.Module):
    """Cross-covariance attention. Parameter names as in the authors' XCA: temperature, qkv, proj.

    The local patch interaction that lets tokens of one map meet (two depthwise convolutions, LPI)
    is a layer of its own in the authors' block, and is out.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        self.temperature = nn.Parameter(torch.ones(num_heads, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim, bias=params.qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        qkv = self.qkv(x.flatten(1, 2))
        q, k, v = (split_heads(part, self.num_heads) for part in qkv.chunk(3, dim=-1))
        if self.impl == "eager" or x.itemsize < 4:  # `fallback` says why
            mixing = self.channel_mixing(q, k)
        else:
            mixing = self.scaled_after(q, k)
        return self.proj(merge_heads(v @ mixing.transpose(-2, -1))).view(x.shape)

    def channel_mixing(self, q: Heads, k: Heads) -> Float[Tensor, "batch heads head_dim head_dim"]:
        """The weight of every value channel (last) in every output channel; rows sum to 1."""
        q, k = F.normalize(q, dim=-2), F.normalize(k, dim=-2)
        return (q.transpose(-2, -1) @ k * self.temperature).softmax(dim=-1)

    def scaled_after(self, q: Heads, k: Heads) -> Float[Tensor, "batch heads head_dim head_dim"]:
        """The same, with the d x d products divided by the lengths in place of q and k."""
        # A norm over any but the last dimension takes a CPU up to eight times as long.
        of_q, of_k = (part.square().sum(dim=-2).clamp_min(1e-24).sqrt() for part in (q, k))
        products = q.transpose(-2, -1) @ k / of_q[..., :, None] / of_k[..., None, :]
        return (products * self.temperature).softmax(dim=-1)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N C d, d = C / heads."""
    return 4 * grid.tokens * dim**2 + 2 * grid.tokens * dim * (dim // num_heads)


def fallback(dim: int, num_heads: int, grid: Grid, dtype: str, params: Params) -> str | None:
    """Why q and k are scaled before their product, as in the equations."""
    if dtype == "float16":
        return "products of unscaled tokens leave the range of fp16"
    is_bf16 = dtype == "bfloat16"
    return "in bf16 scaling tokens is faster than dividing products" if is_bf16 else None


ATTENTION = AttentionSpec(
    module=XCA,
    params=Params,
    family="channel",
    paper=Paper(
        title="XCiT: Cross-Covariance Image Transformers",
        arxiv="2106.09681",
        venue="NeurIPS 2021",
        code="https://github.com/facebookresearch/xcit",
    ),
    equation="V softmax(K'^T Q' t) over d x d channels, K' and Q' of unit length over tokens",
    cost="4NC^2 + 2NCd, d = C / heads",
    size_rule="any",
    settings={4: {}, 8: {}, 16: {}, 32: {}},
    impls=("eager", "fused"),
    kernels="batched matmul, lengths divided after the product",
    macs=macs,
    fallback=fallback,
    traps=(
        "the cost depends on the width of a head: fewer heads cost more",
        "channels are mixed by the same weights at every token: no token sees where another is, "
        "which the authors' block mends with a convolution (LPI) that is not counted here",
    ),
)
