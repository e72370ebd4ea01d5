"""Focal modulation: contexts of growing reach, gated at each token, multiply the queries.

arXiv 2203.11926 (FocalNet). A row of depthwise convolutions makes a context for each level, the
mean of the last one makes the global context; gates weigh them, and their sum multiplies the
query. No softmax, no keys and values. Linear in tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from attentions._attend import FeatureMap, Impl, pointwise
from attentions._conv_norm import convolve
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    focal_level               L, the number of convolutions in a row
    focal_window              side of the first, odd
    focal_factor              by how much each side is larger than the one before, even
    use_postln_in_modulation  normalises the modulated queries
    normalize_modulator       divides the sum of contexts by their number
    """

    focal_level: int = 3
    focal_window: int = 3
    focal_factor: int = 2
    use_postln_in_modulation: bool = False
    normalize_modulator: bool = False


class FocalModulation(nn.Module):
    """Focal modulation. Names as in the authors' FocalModulation: f, h, proj, focal_layers, ln.

    There are no heads: `num_heads` has no effect.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.dim = dim
        self.f = nn.Linear(dim, 2 * dim + params.focal_level + 1)
        self.h = nn.Conv2d(dim, dim, 1)
        self.proj = nn.Linear(dim, dim)
        self.focal_layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim, bias=False), nn.GELU()
            )
            for side in sides_of(params)
        )
        self.ln = nn.LayerNorm(dim) if params.use_postln_in_modulation else nn.Identity()
        self.share = 1 / (params.focal_level + 1) if params.normalize_modulator else 1.0

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused":
            return self._fused(x)
        levels = len(self.focal_layers)
        query, context, gates = self.f(x).split((self.dim, self.dim, levels + 1), dim=-1)
        context, total = context.permute(0, 3, 1, 2), torch.zeros_like(query)
        for level, layer in enumerate(self.focal_layers):
            context = layer(context)
            total = total + context.permute(0, 2, 3, 1) * gates[..., level : level + 1]
        whole = F.gelu(context.mean((2, 3)))[:, None, None]
        total = (total + whole * gates[..., levels:]) * self.share
        modulator = self.h(total.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(self.ln(query * modulator))

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """Channels last; f is taken apart, so that nothing is copied for the convolutions."""
        parts = (self.dim, self.dim, len(self.focal_layers) + 1)
        query, context, gates = (
            F.linear(x, weight, bias)
            for weight, bias in zip(
                self.f.weight.split(parts), self.f.bias.split(parts), strict=True
            )
        )
        *gate, of_whole = (gates * self.share).split(1, dim=-1)
        total = None
        for layer, weight in zip(self.convolutions(), gate, strict=True):
            context = F.gelu(convolve(context, layer.weight, None, groups=self.dim))
            total = context * weight if total is None else torch.addcmul(total, context, weight)
        assert total is not None
        total = torch.addcmul(total, F.gelu(context.mean((1, 2), keepdim=True)), of_whole)
        return self.proj(self.ln(query * pointwise(total, self.h)))

    def convolutions(self) -> Iterator[nn.Conv2d]:
        """One for each level, narrow to wide."""
        for layer in self.focal_layers:
            assert isinstance(layer, nn.Sequential)
            assert isinstance(layer[0], nn.Conv2d)
            yield layer[0]


def sides_of(params: Params) -> list[int]:
    """Of the convolutions."""
    first, step = params.focal_window, params.focal_factor
    return [first + step * level for level in range(params.focal_level)]


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + N C (L + 1 + sum of squared sides), and 5 N C where the result is normalised."""
    taps = sum(side**2 for side in sides_of(params))
    norm = 5 * params.use_postln_in_modulation
    return grid.tokens * dim * (4 * dim + params.focal_level + 1 + taps + norm)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.focal_level < 1:
        return f"focal_level must be at least 1, got {params.focal_level}"
    for side in sides_of(params):
        if side < 1 or side % 2 == 0:
            return f"every side must be odd, so that a token is at its centre, got {side}"
    return None


ATTENTION = AttentionSpec(
    module=FocalModulation,
    params=Params,
    family="convolution",
    paper=Paper(
        title="Focal Modulation Networks",
        arxiv="2203.11926",
        venue="NeurIPS 2022",
        code="https://github.com/microsoft/FocalNet",
    ),
    equation="W(Q * H(sum of G_l Z_l)), Z_l = gelu(DWConv(Z_{l-1})), the last Z of all tokens' "
    "mean",
    cost="4NC^2 + 84NC at L = 3",
    size_rule="any",
    settings={
        4: {"focal_level": 3, "focal_window": 3},
        8: {"focal_level": 3, "focal_window": 3},
        16: {"focal_level": 3, "focal_window": 3},
        32: {"focal_level": 3, "focal_window": 3},
    },
    space={"focal_level": (1, 2, 3, 4), "focal_window": (3, 5, 7)},
    impls=("eager", "fused"),
    kernels="matmul and depthwise convolution on channels-last maps",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "it is no attention: there is no weight for a pair of tokens",
        "the paper's name for its settings is by receptive field: LRF is 3 levels, as here, SRF 2",
        "what lies outside the map is zero for the convolutions, and GELU keeps it so",
        "the authors' formula counts the global mean, N C, and leaves out the gates",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
