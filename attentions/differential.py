"""Differential attention: the difference of two softmax maps, so that common noise cancels.

arXiv 2410.05258 (Diff Transformer). Queries and keys of a head are two halves, each with a softmax
map; a learned share of the second is subtracted from the first. The result of each head is
normalised. Quadratic in tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Heads, Impl, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    depth  index of the layer in its model, which sets where the share of the second map starts:
           0.8 - 0.6 exp(-0.3 depth)
    """

    depth: int = 0


class Differential(nn.Module):
    """Differential attention over all tokens. Names as in the authors' MultiheadDiffAttn.

    They are q_proj, k_proj, v_proj, out_proj, subln and lambda_q1, k1, q2, k2. Out: the causal mask
    and the rotary embedding of their language models, and heads of keys that several heads of
    queries share.
    """

    halves: Tensor

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        head_dim = dim // num_heads // 2
        self.scale = head_dim**-0.5
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * params.depth)
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.out_proj = nn.Linear(dim, dim, bias=False)
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nn.Parameter(0.1 * torch.randn(head_dim)) for _ in range(4)
        )
        self.subln = nn.RMSNorm(2 * head_dim, eps=1e-5)
        # 1 in the first half of a head's channels, and 1 in the second.
        halves = torch.eye(2).repeat_interleave(head_dim, dim=1)
        self.register_buffer("halves", halves, persistent=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        tokens = x.flatten(1, 2)
        q, k, v = (
            split_heads(layer(tokens), self.num_heads)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = self.difference(q, k, v) if self.impl == "eager" else self._fused(q, k, v)
        normalised = self.subln(mixed) * (1 - self.lambda_init)
        return self.out_proj(merge_heads(normalised)).view(x.shape)

    def share(self) -> Float[Tensor, ""]:
        """lambda: how much of the second map is subtracted, in fp32 at least."""
        dtype = torch.promote_types(self.lambda_q1.dtype, torch.float32)
        first, second = (
            (q * k).sum().to(dtype).exp()
            for q, k in ((self.lambda_q1, self.lambda_k1), (self.lambda_q2, self.lambda_k2))
        )
        return (first - second + self.lambda_init).to(self.lambda_q1.dtype)

    def difference(self, q: Heads, k: Heads, v: Heads) -> Heads:
        """(softmax(Q1 K1^T / sqrt(d)) - lambda softmax(Q2 K2^T / sqrt(d))) V."""
        first, second = (
            ((q_half * self.scale) @ k_half.transpose(-2, -1)).softmax(dim=-1)
            for q_half, k_half in zip(q.chunk(2, dim=-1), k.chunk(2, dim=-1), strict=True)
        )
        return (first - self.share() * second) @ v

    def _fused(self, q: Heads, k: Heads, v: Heads) -> Heads:
        """One call for both maps: queries with a half of zeros see the other half of the keys.

        So queries, keys and values are of one width, which the kernel needs, and keys and values
        are not copied.
        """
        tokens = q.transpose(1, 2)[:, None] * self.halves[:, None, None]
        both = attend(tokens.flatten(1, 2).transpose(1, 2), k, v, impl="fused", scale=self.scale)
        first, second = both.chunk(2, dim=2)
        return first - self.share() * second


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N^2 C: the halves' products are those of whole heads; one map meets V."""
    return 4 * grid.tokens * dim**2 + 2 * grid.tokens**2 * dim


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Heads that have no halves, and settings outside their range."""
    if dim // num_heads % 2:
        return f"a head is two halves, so its width must be even, got {dim // num_heads}"
    return None if params.depth >= 0 else f"depth must be at least 0, got {params.depth}"


ATTENTION = AttentionSpec(
    module=Differential,
    params=Params,
    family="global",
    paper=Paper(
        title="Differential Transformer",
        arxiv="2410.05258",
        venue="ICLR 2025",
        code="https://github.com/microsoft/unilm/tree/master/Diff-Transformer",
    ),
    equation="(1 - l0) RMSNorm((softmax(Q1 K1^T / sqrt(d)) - l softmax(Q2 K2^T / sqrt(d))) V), "
    "l = exp(a1 b1) - exp(a2 b2) + l0",
    cost="4NC^2 + 2N^2C",
    size_rule="any",
    settings={4: {}, 8: {}, 16: {}, 32: {}},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention, both maps in one call",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "num_heads counts pairs of maps: the authors take half as many as for MSA",
        "published for causal language models, with a rotary embedding; here every token sees all "
        "tokens, and there is no embedding of positions, as in timm",
        "no layer has a bias",
        "the kernel computes 4N^2 C for the two maps where the equations take 2N^2 C",
        "the authors' layer on FlashAttention gives the same with keys of half the width",
    ),
)
