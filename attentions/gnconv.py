"""gnConv: recursive gated convolution, interactions of order n by n - 1 gates in a row.

arXiv 2207.14284 (HorNet). One depthwise 7 x 7 convolution gives a gate for each order; each gate
multiplies the features so far, which a pointwise convolution has widened to twice the channels.
Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from attentions._attend import FeatureMap, Impl, pointwise, projected
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    order  n, the number of gates; the widths are C / 2^(n-1), ..., C / 2, C
    s      scale of the gates, constant
    """

    order: int = 5
    s: float = 1.0


class GnConv(nn.Module):
    """Recursive gated convolution. Parameter names as in the authors' gnconv.

    They are proj_in, dwconv, pws, proj_out. The variant with a global filter in place of the
    convolution (GF) is out: its learned spectrum is a mechanism of its own. There are no heads:
    `num_heads` has no effect.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.widths = widths_of(dim, params.order)
        self.s = params.s
        gates = sum(self.widths)
        self.proj_in = nn.Conv2d(dim, 2 * dim, 1)
        self.dwconv = nn.Conv2d(gates, gates, 7, padding=3, groups=gates)
        self.pws = nn.ModuleList(
            nn.Conv2d(narrow, wide, 1) for narrow, wide in pairwise(self.widths)
        )
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused":
            return self._fused(x)
        projected = self.proj_in(x.permute(0, 3, 1, 2))
        mixed, gates = projected.split((self.widths[0], sum(self.widths)), dim=1)
        first, *rest = (self.dwconv(gates) * self.s).split(self.widths, dim=1)
        mixed = mixed * first
        for widen, gate in zip(self.pws, rest, strict=True):
            mixed = widen(mixed) * gate
        return self.proj_out(mixed).permute(0, 2, 3, 1)

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """Channels last; the scale is the weights', and the split is of the projection's weights,
        so that nothing is copied for the convolution."""
        first, gates = self.widths[0], sum(self.widths)
        weight, bias = self.proj_in.weight.flatten(1), self.proj_in.bias
        assert bias is not None
        assert self.dwconv.bias is not None
        mixed = projected(x, weight[:first], bias[:first])
        gated = projected(x, weight[first:], bias[first:]).permute(0, 3, 1, 2)
        gated = F.conv2d(
            gated, self.dwconv.weight * self.s, self.dwconv.bias * self.s, padding=3, groups=gates
        )
        first_gate, *rest = gated.permute(0, 2, 3, 1).split(self.widths, dim=-1)
        mixed = mixed * first_gate
        for widen, gate in zip(self.pws, rest, strict=True):
            assert isinstance(widen, nn.Conv2d)
            mixed = pointwise(mixed, widen) * gate
        return pointwise(mixed, self.proj_out)


def widths_of(dim: int, order: int) -> list[int]:
    """Channels at each order, narrow to wide: each twice the one before, up to dim."""
    return [dim // 2**halvings for halvings in reversed(range(order))]


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """N (3 C^2 + 49 sum of widths + sum of products of neighbouring widths)."""
    widths = widths_of(dim, params.order)
    widened = sum(narrow * wide for narrow, wide in pairwise(widths))
    return grid.tokens * (3 * dim**2 + 49 * sum(widths) + widened)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Channels that cannot be halved that often."""
    if params.order < 1:
        return f"order must be at least 1, got {params.order}"
    if dim % 2 ** (params.order - 1):
        return f"order {params.order} needs a dim divisible by {2 ** (params.order - 1)}, got {dim}"
    return None


ATTENTION = AttentionSpec(
    module=GnConv,
    params=Params,
    family="convolution",
    paper=Paper(
        title="HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions",
        arxiv="2207.14284",
        venue="NeurIPS 2022",
        code="https://github.com/raoyongming/HorNet",
    ),
    equation="p_{k+1} = s DWConv7x7(q_k) * W_k p_k for k < n, then W p_n; [p_0, q_0, ...] = W x",
    cost="(3 + 2/3 (1 - 4^(1-n)))NC^2 + 98(1 - 2^(-n))NC",
    size_rule="any",
    # s is 1/3, written out so that the table stays a literal.
    settings={
        4: {"order": 2, "s": 0.3333333333333333},
        8: {"order": 3, "s": 0.3333333333333333},
        16: {"order": 4, "s": 0.3333333333333333},
        32: {"order": 5, "s": 0.3333333333333333},
    },
    space={"order": (2, 3, 4, 5)},
    impls=("eager", "fused"),
    kernels="matmul and depthwise convolution on channels-last maps",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "dim must be divisible by 2^(order - 1)",
        "the output is a polynomial of degree order + 1 in its input: activations grow fast in "
        "low precision, and s = 1/3 is what keeps them small",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
