"""MLLA: linear attention in the block of Mamba, with rotary positions, a convolution and a gate.

arXiv 2405.16605. Mamba is read as linear attention with a forget gate, one head and a block around
it. The block is kept; the gate, which runs from token to token, gives way to rotary positions and
a local convolution, which all tokens get at once. Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, merge_heads, split_heads
from attentions._conv_norm import convolve
from attentions._linear import EPS, mean_weight, mix
from attentions._rotary import turned
from attentions._spec import AttentionSpec, Grid, Paper

BASE = 10000  # the slowest rotation turns by 1 / BASE a token, as for words


class RoPE(nn.Module):
    """Rotary positions of a map: one buffer, rotations (height, width, dim / 2, 2).

    Neighbouring channels are a complex number, which the token's position turns: the first half of
    the numbers by its row, the second by its column. `rotations` are cosines and sines.
    """

    rotations: Tensor

    def __init__(self, dim: int, grid: Grid) -> None:
        super().__init__()
        self.register_buffer("rotations", rotations(dim, grid))

    def forward(self, x: FeatureMap) -> FeatureMap:
        return turned(x, self.rotations.movedim(-1, 0))

    def tables(
        self, scale: float
    ) -> tuple[Float[Tensor, "height width dim"], Float[Tensor, "height width dim"]]:
        """What a channel is multiplied by, and what the other of its pair, both times `scale`."""
        cos, sin = (self.rotations * scale).chunk(2, dim=-1)
        return torch.cat((cos, cos), dim=-1).flatten(-2), torch.cat((-sin, sin), dim=-1).flatten(-2)


class LinearAttention(nn.Module):
    """Linear attention of a map whose tokens are their own values. Names: qk, lepe, rope."""

    def __init__(self, dim: int, num_heads: int, grid: Grid, *, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qk = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.rope = RoPE(dim, grid)

    def forward(self, x: FeatureMap) -> FeatureMap:
        q, k = (F.elu(part) + 1 for part in self.qk(x).chunk(2, dim=-1))
        parts = (self._heads(part) for part in (self.rope(q), self.rope(k), x))
        mixed = mix(*parts) / mean_weight(self._heads(q), self._heads(k))
        local = self.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return merge_heads(mixed).view(x.shape) + local

    def fused(self, x: FeatureMap) -> FeatureMap:
        """The same with fewer passes: turning scales as well, half in queries and half in keys."""
        heads = self.num_heads
        q, k = (F.elu(part).add_(1) for part in self.qk(x).chunk(2, dim=-1))
        weights = (q * k.mean(dim=(1, 2), keepdim=True)).unflatten(-1, (heads, -1)).sum(dim=-1)
        own, other = self.rope.tables((x.shape[1] * x.shape[2]) ** -0.5)
        q, k = (
            torch.addcmul(part * own, part.unflatten(-1, (-1, 2)).flip(-1).flatten(-2), other)
            for part in (q, k)
        )
        mixed = self._heads(q) @ (self._heads(k).mT @ self._heads(x))
        mixed = mixed / (weights.flatten(1, 2) + EPS).mT.unsqueeze(-1)
        local = convolve(x, self.lepe.weight, self.lepe.bias, groups=x.shape[3])
        mixed = local.flatten(1, 2).unflatten(-1, (heads, -1)) + mixed.transpose(1, 2)
        return mixed.flatten(-2).view(x.shape)

    def _heads(self, x: FeatureMap) -> Float[Tensor, "batch heads tokens head_dim"]:
        return split_heads(x.flatten(1, 2), self.num_heads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    qkv_bias  whether queries and keys have biases; values have no projection
    """

    qkv_bias: bool = True


class MLLA(nn.Module):
    """The token mixer of the authors' MLLABlock, between its first norm and its residual.

    Names as there: in_proj, act_proj, dwc, out_proj, and attn.qk, attn.lepe and the buffer
    attn.rope.rotations. Out are the convolutions cpe1 and cpe2, which the block adds before the
    norm and after the residual.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.in_proj = nn.Linear(dim, dim)
        self.act_proj = nn.Linear(dim, dim)
        self.dwc = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.attn = LinearAttention(dim, num_heads, grid, qkv_bias=params.qkv_bias)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        gate = F.silu(self.act_proj(x))
        local = convolve(self.in_proj(x), self.dwc.weight, self.dwc.bias, groups=x.shape[3])
        attention = self.attn if self.impl == "eager" else self.attn.fused
        return self.out_proj(attention(F.silu(local)) * gate)


def rotations(dim: int, grid: Grid) -> Float[Tensor, "height width half 2"]:
    """Cosine and sine of each pair of channels at each token."""
    quarter = dim // 4
    speeds = 1 / BASE ** (torch.arange(quarter) / quarter)
    rows = (torch.arange(grid.height)[:, None] * speeds)[:, None].expand(-1, grid.width, -1)
    columns = (torch.arange(grid.width)[:, None] * speeds).expand(grid.height, -1, -1)
    angles = torch.cat((rows, columns), dim=-1)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """5 N C^2 + 2 N C d + 19 N C, d = C / heads.

    The last term is two 3 x 3 convolutions and the sum of a query's weights.
    """
    return grid.tokens * (5 * dim**2 + 2 * dim * (dim // num_heads) + 19 * dim)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Channels that do not pair for rows and for columns."""
    return None if dim % 4 == 0 else f"dim must be a multiple of 4 for rotary positions, got {dim}"


ATTENTION = AttentionSpec(
    module=MLLA,
    params=Params,
    family="linear",
    paper=Paper(
        title="Demystify Mamba in Vision: A Linear Attention Perspective",
        arxiv="2405.16605",
        venue="NeurIPS 2024",
        code="https://github.com/LeapLabTHU/MLLA",
    ),
    equation="W(silu(W_g x) * (R(Q) (R(K)^T V) / Q K^T 1 + DWConv3x3(V))), R turns by position, "
    "Q, K = elu(W V) + 1, V = silu(DWConv3x3(W_v x))",
    cost="5NC^2 + 2NCd, d = C / heads",
    size_rule="fixed",
    settings={4: {}, 8: {}, 16: {}, 32: {}},
    impls=("eager", "fused"),
    kernels="batched matmul and depthwise convolution on channels-last maps",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the block's two other convolutions, cpe1 and cpe2, are outside: this is what lies between "
        "the first norm and the residual, gate and projections included",
        "values have no projection of their own: they are what queries and keys come from",
        "positions turn the whole width before heads are split: the first half of the heads sees "
        "rows only, the second columns only",
        "weights are divided by their sum before the turn, so that they do not sum to one, and may "
        "be negative",
        "the rotations are a buffer of the map's size, and no learned number: on another map, load "
        "the weights without it, as the authors' detection code does",
        "the authors turn in fp32 where the rest is half precision; here all is in the input's "
        "dtype",
    ),
)
