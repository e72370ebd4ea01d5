"""Polarized linear attention: weights from channels of one sign, and others from opposite signs.

arXiv 2501.15061 (PolaFormer). ReLU features drop what is negative. Here positive and negative
parts of queries and keys are kept apart: products of like parts mix half of the values, products
of unlike parts the other half. Learned powers sharpen the weights; a convolution of the values is
added, and a gate multiplies. Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Heads, Impl, merge_heads, split_heads
from attentions._linear import EPS, convolve_all, convolve_heads, feature_dtype, mean_weight, mix
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    alpha        range of the learned powers, which lie between 1 and 1 + alpha
    kernel_size  side of the depthwise convolution of values, odd
    """

    alpha: float = 4.0
    kernel_size: int = 5
    qkv_bias: bool = True


class Polarized(nn.Module):
    """Polarity-aware linear attention over the whole map. Names as in the authors' Pola-Swin.

    They are qkvg, proj, dwc, power, scale and positional_encoding, which belongs to the grid. In
    their models of Swin the window is the map. All heads share one dwc.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        self.alpha = params.alpha
        self.qkvg = nn.Linear(dim, 4 * dim, bias=params.qkv_bias)
        self.proj = nn.Linear(dim, dim)
        width, side = dim // num_heads, params.kernel_size
        self.dwc = nn.Conv2d(width, width, side, padding=side // 2, groups=width)
        self.power = nn.Parameter(torch.zeros(1, num_heads, 1, width))
        self.scale = nn.Parameter(torch.zeros(1, 1, dim))
        self.positional_encoding = nn.Parameter(torch.zeros(1, grid.tokens, dim))

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused":
            return self._fused(x)
        qkv, gate = self.qkvg(x).split((3 * x.shape[3], x.shape[3]), dim=-1)
        q, k, v = qkv.flatten(1, 2).to(feature_dtype(x.dtype)).chunk(3, dim=-1)
        k, scale = k + self.positional_encoding, F.softplus(self.scale.to(q.dtype))
        q, k, v = (split_heads(part, self.num_heads) for part in (q / scale, k / scale, v))
        mixed = merge_heads(self._attend(q, k, v)).view(x.shape)
        local = convolve_heads(v.to(x.dtype), self.dwc, x.shape[1], x.shape[2])
        return self.proj((mixed + local).to(x.dtype) * gate)

    def _attend(self, q: Heads, k: Heads, v: Heads) -> Heads:
        """Values of the first half of a head by like parts, of the second by unlike ones."""
        power = self.powers(q.dtype)
        positive, negative = q.relu() ** power, (-q).relu() ** power
        keys = torch.cat((k.relu() ** power, (-k).relu() ** power), dim=-1)
        first, second = v.chunk(2, dim=-1)
        like = torch.cat((positive, negative), dim=-1)
        unlike = torch.cat((negative, positive), dim=-1)
        mixed = (
            mix(like, keys, first) / mean_weight(like, keys),
            mix(unlike, keys, second) / mean_weight(unlike, keys),
        )
        return torch.cat(mixed, dim=-1)

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """One power of both parts, and one product of queries for both mixtures and their sums,
        which columns of ones beside the values make.

        Queries keep their order: for unlike parts the two halves of the context change places.
        """
        q, k, v, gate = self.qkvg(x).chunk(4, dim=-1)
        local = convolve_all(v, self.dwc, self.num_heads)
        q, k, v = (part.flatten(1, 2).to(feature_dtype(x.dtype)) for part in (q, k, v))
        scale, power = F.softplus(self.scale.to(q.dtype)), self.powers(q.dtype)
        q, k = q / scale, torch.addcdiv(self.positional_encoding / scale, k, scale)
        q, k, v = (split_heads(part, self.num_heads) for part in (q, k, v))
        queries, keys = parts(q, power), parts(k, power)
        head_dim, half = v.shape[-1], v.shape[-1] // 2
        values = F.pad(v.unflatten(-1, (2, half)), (0, 1), value=1.0).flatten(-2)
        first, second = (keys.mT @ values / k.shape[-2]).chunk(2, dim=-1)
        context = torch.stack((first, second.roll(head_dim, dims=-2)), dim=-2).flatten(-2)
        mixed = (queries @ context).unflatten(-1, (2, half + 1))
        mixed, weights = mixed.split((half, 1), dim=-1)
        mixed = merge_heads((mixed / (weights + EPS)).flatten(-2)).view(x.shape)
        return self.proj((mixed + local).to(x.dtype) * gate)

    def powers(self, dtype: torch.dtype) -> Float[Tensor, "1 heads 1 head_dim"]:
        """Learned, one for each channel, from 1 to 1 + alpha."""
        return 1 + self.alpha * self.power.to(dtype).sigmoid()


def parts(
    x: Heads, power: Float[Tensor, "1 heads 1 head_dim"]
) -> Float[Tensor, "batch heads tokens two_head_dim"]:
    """The powers of the positive and of the negative parts, from one power of both."""
    signed = x.abs() ** power * x.sign()
    positive = signed.relu()
    return torch.cat((positive, positive - signed), dim=-1)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """5 N C^2 + 4 N C d + (K^2 + 4) N C, d = C / heads, K the kernel; the 4 sum the weights."""
    per_channel = 5 * dim + 4 * (dim // num_heads) + params.kernel_size**2 + 4
    return grid.tokens * dim * per_channel


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range, and values that have no halves."""
    head_dim = dim // num_heads
    if head_dim % 2:
        return f"dim / num_heads must be even, for the values of a head are halved, got {head_dim}"
    if params.alpha < 0:
        return f"alpha must be at least 0, got {params.alpha}"
    side = params.kernel_size
    if side < 1 or side % 2 == 0:
        return f"kernel_size must be odd, so that a token is at its centre, got {side}"
    return None


ATTENTION = AttentionSpec(
    module=Polarized,
    params=Params,
    family="linear",
    paper=Paper(
        title="PolaFormer: Polarity-aware Linear Attention for Vision Transformers",
        arxiv="2501.15061",
        venue="ICLR 2025",
        code="https://github.com/ZacharyMeng/PolaFormer",
    ),
    equation="W(G * ([f(Q) (f(K)^T V1) / f(Q) f(K)^T 1, f(-Q) (f(K)^T V2) / f(-Q) f(K)^T 1] + "
    "DWConv5x5(V))), f(x) = [relu(x)^p, relu(-x)^p]",
    cost="5NC^2 + 4NCd + 29NC, d = C / heads",
    size_rule="fixed",
    # Pola-PVT has it in all stages, Pola-Swin in the first two.
    settings={
        4: {"alpha": 4.0, "kernel_size": 5},
        8: {"alpha": 4.0, "kernel_size": 5},
        16: {"alpha": 4.0, "kernel_size": 5},
        32: {"alpha": 4.0, "kernel_size": 5},
    },
    space={"kernel_size": (3, 5, 7)},
    impls=("eager", "fused"),
    kernels="batched matmul and depthwise convolution on channels-last maps",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "positions are added to keys and belong to a map: published weights load at their own "
        "resolution only",
        "Pola-PVT has qg and kv in place of qkvg, which here are joined, and can reduce keys by a "
        "convolution, which none of its published settings does",
        "the gate is projected from the input and has no activation; it also multiplies what the "
        "convolution adds",
        "their module for Swin takes square maps only; here the convolution sees the map as it is",
        "values of a head are halved: what one half holds never meets the weights of the other",
        "powers are taken in fp32 where the input is fp16, whose range they leave",
        "a query that is zero in all channels of a head has no weights: the sum is 1e-6, and the "
        "attention of the head is 0",
    ),
)
