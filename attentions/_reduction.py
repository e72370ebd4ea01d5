"""Attention from every token to a reduced map: what PVT, PVT v2 and Twins have in common."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, split_heads
from attentions._spec import Grid


class ReducedAttention(nn.Module):
    """Queries from every token, keys and values from the tokens that `reduce` leaves.

    Parameters carry the names of the authors' Attention: q, kv, proj.
    """

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool, impl: Impl) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.impl: Impl = impl
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        q = split_heads(self.q(x).flatten(1, 2), self.num_heads)
        k, v = (split_heads(part, self.num_heads) for part in self.kv(self.reduce(x)).chunk(2, -1))
        return self.proj(merge_heads(attend(q, k, v, impl=self.impl))).view(x.shape)

    def reduce(self, x: FeatureMap) -> Float[Tensor, "batch keys dim"]:
        """The tokens that keys and values come from."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True, kw_only=True)
class StridedReductionParams:
    """Hyper-parameters of SRA and Twins GSA.

    sr_ratio  R, the side of the window that one key stands for; 1 reduces nothing, and has neither
              sr nor norm
    """

    sr_ratio: int = 2
    qkv_bias: bool = True


class StridedReduction(ReducedAttention):
    """Reduced by a convolution of R x R with stride R, then normalised (arXiv 2102.12122).

    Adds the authors' sr and norm; with R = 1, as in their code, neither. Their dropouts are left
    out, since they are zero in every published model.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: Grid,
        params: StridedReductionParams,
        impl: Impl = "fused",
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias=params.qkv_bias, impl=impl)
        self.sr_ratio = ratio = params.sr_ratio
        if ratio > 1:
            self.sr = nn.Conv2d(dim, dim, kernel_size=ratio, stride=ratio)
            self.norm = nn.LayerNorm(dim)

    def reduce(self, x: FeatureMap) -> Float[Tensor, "batch keys dim"]:
        """LayerNorm(Conv(x)); rows and columns beyond a multiple of R are not seen."""
        if self.sr_ratio == 1:
            return x.flatten(1, 2)
        return self.norm(self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2))


def strided_reduction_macs(
    dim: int, num_heads: int, grid: Grid, params: StridedReductionParams
) -> int:
    """2 N C^2 + 2 M C^2 + 2 N M C, M = floor(H / R) floor(W / R).

    With R > 1 also the convolution, M R^2 C^2, and its normalisation, 5 M C.
    """
    ratio = params.sr_ratio
    keys = (grid.height // ratio) * (grid.width // ratio)
    total = 2 * (grid.tokens + keys) * dim**2 + 2 * grid.tokens * keys * dim
    if ratio > 1:
        total += keys * ratio**2 * dim**2 + 5 * keys * dim
    return total


def strided_reduction_unsupported(
    dim: int, num_heads: int, grid: Grid, params: StridedReductionParams
) -> str | None:
    """A map smaller than the reduction leaves no key."""
    ratio = params.sr_ratio
    if ratio < 1:
        return f"sr_ratio must be at least 1, got {ratio}"
    if min(grid.height, grid.width) < ratio:
        return f"a {grid} map is smaller than the reduction of {ratio}: no key would be left"
    return None
