"""Focused linear attention: powers of queries and keys sharpen it, a convolution adds rank.

arXiv 2308.00442 (FLatten). ReLU attention is flat: a power of each feature, at the length that
they had together, turns queries and keys towards their largest ones. A depthwise convolution of
the values gives back the rank that a product of d x d loses. Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, merge_heads, split_heads
from attentions._linear import EPS, convolve_all, convolve_heads, feature_dtype, mean_weight, mix
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    focusing_factor  p, the power of each feature
    kernel_size      side of the depthwise convolution of values, odd
    """

    focusing_factor: int = 3
    kernel_size: int = 5
    qkv_bias: bool = True


class FocusedLinear(nn.Module):
    """Focused linear attention over the whole map. Names as in the authors' FLatten-Swin.

    They are qkv, proj, dwc, scale and positional_encoding, which belongs to the grid. In their
    models of Swin the window is the map. All heads share one dwc.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        self.factor = params.focusing_factor
        self.qkv = nn.Linear(dim, 3 * dim, bias=params.qkv_bias)
        self.proj = nn.Linear(dim, dim)
        width, side = dim // num_heads, params.kernel_size
        self.dwc = nn.Conv2d(width, width, side, padding=side // 2, groups=width)
        self.scale = nn.Parameter(torch.zeros(1, 1, dim))
        self.positional_encoding = nn.Parameter(torch.zeros(1, grid.tokens, dim))

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused":
            return self._fused(x)
        q, k, v = self.qkv(x).flatten(1, 2).to(feature_dtype(x.dtype)).chunk(3, dim=-1)
        k, scale = k + self.positional_encoding, F.softplus(self.scale.to(q.dtype))
        q, k = (focus((part.relu() + EPS) / scale, self.factor) for part in (q, k))
        q, k, v = (split_heads(part, self.num_heads) for part in (q, k, v))
        mixed = merge_heads(mix(q, k, v) / mean_weight(q, k)).view(x.shape)
        local = convolve_heads(v.to(x.dtype), self.dwc, x.shape[1], x.shape[2])
        return self.proj((mixed + local).to(x.dtype))

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """Fewer passes: the length of a query cancels but for EPS, and a column of ones beside the
        values sums the weights.
        """
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        local = convolve_all(v, self.dwc, self.num_heads)
        q, k, v = (part.flatten(1, 2).to(feature_dtype(x.dtype)) for part in (q, k, v))
        scale = F.softplus(self.scale.to(q.dtype))
        (q, of_q, sharp_q), (k, of_k, sharp_k) = (
            sharpened(torch.addcdiv(EPS / scale, part.relu(), scale), self.factor)
            for part in (q, k + self.positional_encoding)
        )
        k = k * (of_k / sharp_k / k.shape[1])
        q, k, v = (split_heads(part, self.num_heads) for part in (q, k, v))
        mixed, weights = (q @ (k.mT @ F.pad(v, (0, 1), value=1.0))).split((v.shape[-1], 1), dim=-1)
        weights = torch.addcdiv(weights, sharp_q.unsqueeze(1), of_q.unsqueeze(1), value=EPS)
        mixed = merge_heads(mixed / weights)
        return self.proj((mixed.view(x.shape) + local).to(x.dtype))


def focus(x: Float[Tensor, "*batch dim"], factor: int) -> Float[Tensor, "*batch dim"]:
    """The power of each feature, at the length that all had: arXiv 2308.00442, equation 6."""
    powers, before, after = sharpened(x, factor)
    return powers * (before / after)


def sharpened(
    x: Float[Tensor, "*batch dim"], factor: int
) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
    """The power of each feature, the length of x, and that of the powers.

    The largest feature is divided out before, for its power may leave the range. It cancels in what
    the callers make of these, and so does its gradient.
    """
    powers = (x / x.detach().amax(dim=-1, keepdim=True)).pow_(factor)
    return powers, x.norm(dim=-1, keepdim=True), powers.norm(dim=-1, keepdim=True)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N C d + (K^2 + 1) N C, d = C / heads, K the kernel; the 1 sums the weights."""
    per_channel = 4 * dim + 2 * (dim // num_heads) + params.kernel_size**2 + 1
    return grid.tokens * dim * per_channel


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.focusing_factor < 1:
        return f"focusing_factor must be at least 1, got {params.focusing_factor}"
    side = params.kernel_size
    if side < 1 or side % 2 == 0:
        return f"kernel_size must be odd, so that a token is at its centre, got {side}"
    return None


ATTENTION = AttentionSpec(
    module=FocusedLinear,
    params=Params,
    family="linear",
    paper=Paper(
        title="FLatten Transformer: Vision Transformer using Focused Linear Attention",
        arxiv="2308.00442",
        venue="ICCV 2023",
        code="https://github.com/LeapLabTHU/FLatten-Transformer",
    ),
    equation="f(Q) (f(K)^T V) / f(Q) f(K)^T 1 + DWConv5x5(V), f(x) = |r| r^p / |r^p|, "
    "r = relu(x) / softplus(s)",
    cost="4NC^2 + 2NCd + 25NC, d = C / heads",
    size_rule="fixed",
    # FLatten-PVT has it in all stages, FLatten-Swin and FLatten-CSWin in the first two.
    settings={
        4: {"focusing_factor": 3, "kernel_size": 5},
        8: {"focusing_factor": 3, "kernel_size": 5},
        16: {"focusing_factor": 3, "kernel_size": 5},
        32: {"focusing_factor": 3, "kernel_size": 5},
    },
    space={"kernel_size": (3, 5, 7)},
    impls=("eager", "fused"),
    kernels="batched matmul and depthwise convolution on channels-last maps",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "positions are added to keys and belong to a map: published weights load at their own "
        "resolution only",
        "FLatten-PVT has q and kv in place of qkv, which here are joined, and can reduce keys by a "
        "convolution, which none of its published settings does",
        "lengths and powers are taken over all channels, not over those of a head",
        "their module for Swin takes square maps only; here the convolution sees the map as it is",
        "a token without a positive channel has features of 1e-6: from p = 4 on their powers leave "
        "fp32 in the authors' code. Here the largest feature is divided out before, which changes "
        "nothing else",
        "where a head has one channel just above zero, the gradient is steep: rounding moves it",
        "powers are taken in fp32 where the input is fp16, whose range they leave",
    ),
)
