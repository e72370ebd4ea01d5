"""Single-head attention on a share of the channels; the rest joins at the projection.

arXiv 2401.16456 (SHViT), SHSA. Heads of the later stages are redundant, so one head attends, on
about a fifth of the channels, which a group norm precedes; the projection mixes them with those
left alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend
from attentions._conv_norm import ConvNorm
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    pdim    channels that attend; 3/14 of dim unless given, the share in the authors' S4
    qk_dim  width of queries and keys
    """

    pdim: int | None = None
    qk_dim: int = 16


class SingleHead(nn.Module):
    """Single-head self-attention. Names as in the authors' SHSA: pre_norm, qkv, proj.

    The norm of the attending channels is in, as there. The residual around the module, and the
    block's convolution and MLP, are out. There is one head: `num_heads` has no effect.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.qk_dim = params.qk_dim
        self.pdim = attending(dim, params.pdim)
        self.pre_norm = nn.GroupNorm(1, self.pdim)
        self.qkv = ConvNorm(self.pdim, 2 * self.qk_dim + self.pdim)
        self.proj = nn.Sequential(nn.ReLU(), ConvNorm(dim, dim))

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused":
            return self._fused(x)
        image = x.permute(0, 3, 1, 2)
        attends, waits = image.split((self.pdim, image.shape[1] - self.pdim), dim=1)
        qkv = self.qkv(self.pre_norm(attends)).flatten(2).transpose(1, 2)
        mixed = self._attend(qkv).transpose(1, 2).unflatten(2, x.shape[1:3])
        return self.proj(torch.cat((mixed, waits), dim=1)).permute(0, 2, 3, 1)

    def _attend(
        self, qkv: Float[Tensor, "batch tokens channels"]
    ) -> Float[Tensor, "batch tokens pdim"]:
        q, k, v = qkv[:, None].split((self.qk_dim, self.qk_dim, self.pdim), dim=-1)
        return attend(q, k, v, impl=self.impl).squeeze(1)

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """Channels last, batch norms folded into the products."""
        attends, waits = x.split((self.pdim, x.shape[3] - self.pdim), dim=-1)
        attends = self.pre_norm(attends.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        mixed = self._attend(self.qkv.fused(attends).flatten(1, 2)).view(attends.shape)
        joined = torch.cat((mixed, waits), dim=-1)
        joined = joined.relu() if torch.is_grad_enabled() else joined.relu_()
        projection = self.proj[1]
        assert isinstance(projection, ConvNorm)
        return projection.fused(joined)


def attending(dim: int, pdim: int | None) -> int:
    """The channels that attend."""
    return max(1, round(dim * 3 / 14)) if pdim is None else pdim


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """N (P (2 Q + P) + C^2 + N (Q + P)) and the norms, N (5 P + 2 (2 Q + P) + 2 C).

    P are the channels that attend, Q the width of queries and keys.
    """
    width, narrow = attending(dim, params.pdim), params.qk_dim
    joint = 2 * narrow + width
    products = width * joint + dim**2 + grid.tokens * (narrow + width)
    return grid.tokens * (products + 5 * width + 2 * joint + 2 * dim)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range, and a norm of one number."""
    width = attending(dim, params.pdim)
    if width * grid.tokens == 1:
        return "one attending channel on a 1 x 1 map is a single number, which has no norm"
    if not 1 <= width <= dim:
        return f"pdim is a number of the {dim} channels, between 1 and {dim}, got {params.pdim}"
    return None if params.qk_dim >= 1 else f"qk_dim must be at least 1, got {params.qk_dim}"


ATTENTION = AttentionSpec(
    module=SingleHead,
    params=Params,
    family="global",
    paper=Paper(
        title="SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design",
        arxiv="2401.16456",
        venue="CVPR 2024",
        code="https://github.com/ysj9909/SHViT",
    ),
    equation="W relu([softmax(Q K^T / sqrt(q)) V, the other channels]), Q, K, V from 3/14 of the "
    "channels",
    cost="(1 + r^2)NC^2 + rN^2C, r = 3/14",
    size_rule="any",
    # The authors' first stage, at stride 16, has no attention; the third is at stride 64.
    settings={32: {"qk_dim": 16}},
    space={"qk_dim": (8, 16, 32)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention; batch norms folded into the products",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the paper's share is 1/4.67; the authors' models round it by hand: 32 of 128, 48 of 224, "
        "66 or 68 of 308 or 320, 72 of 336, 96 of 448",
        "the norm before it is over all tokens and all attending channels at once",
        "values are wider than queries and keys, which the kernel of a CPU does not take: there "
        "fused runs the equation on small maps, and fills up with zeros on large ones",
        "batch norms: measured in eval mode, with their running statistics",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
