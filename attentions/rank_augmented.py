"""Rank-augmented linear attention: the mean query weighs the keys, and a gate scales the output.

arXiv 2411.07635 (RALA). The product of keys and values, and what queries read from it, have a low
rank. So the mean query weighs the keys before they meet the values, and another projection of each
token multiplies its output. Queries and keys turn with the position. Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, merge_heads, split_heads
from attentions._conv_norm import convolve
from attentions._rotary import angles, cos_and_sin, planes, turned, turned_planes
from attentions._spec import AttentionSpec, Grid, Paper

EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters. The mechanism has none."""


class RankAugmented(nn.Module):
    """Rank-augmented linear attention. Names as in the authors' GateLinearAttentionNoSilu.

    They are qkvo, lepe and proj. By how much queries and keys turn, which the blocks of a stage
    share, is made here for the map; it follows from RoPE.angle of the stage in their checkpoints.
    """

    turn: Tensor
    channels: Tensor

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.grid = grid
        self.num_heads = num_heads
        self.qkvo = nn.Conv2d(dim, 4 * dim, 1)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        self.proj = nn.Conv2d(dim, dim, 1)
        self.register_buffer("turn", turn_of(dim // num_heads, grid), persistent=False)
        # 1 where a channel belongs to the head, in the order of `planes`.
        channels = torch.eye(num_heads).repeat_interleave(dim // num_heads // 2, dim=1).repeat(1, 2)
        self.register_buffer("channels", channels, persistent=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        grid = Grid(x.shape[1], x.shape[2])
        turn = self.turn
        if grid != self.grid:
            turn = turn_of(x.shape[3] // self.num_heads, grid).to(x)
        if self.impl == "fused":
            return self._fused(x, turn)
        q, k, values, gate = self.qkvo(x.permute(0, 3, 1, 2)).chunk(4, dim=1)
        q, k, v = (split_heads(part.flatten(2).mT, self.num_heads) for part in (q, k, values))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        tokens, scale = grid.tokens, q.shape[-1] ** -0.5
        mean = q.mean(dim=-2, keepdim=True)
        weights = (scale * mean @ k.mT).softmax(dim=-1)
        k = k * weights.mT * tokens
        total = q @ k.mean(dim=-2, keepdim=True).mT + EPS
        context = (turned(k, turn) * tokens**-0.5).mT @ (v * tokens**-0.5)
        mixed = merge_heads(turned(q, turn) @ context / total).mT.unflatten(2, x.shape[1:3])
        return self.proj((mixed + self.lepe(values)) * gate).permute(0, 2, 3, 1)

    def _fused(self, x: FeatureMap, turn: Float[Tensor, "2 tokens pairs"]) -> FeatureMap:
        """Channels last. Weights of keys and the sums of each head are products with all channels.

        So queries and keys are laid out by heads once, where they are turned.
        """
        heads, dim = self.num_heads, x.shape[3]
        weight, bias = (
            torch.cat((planes(part[:dim]), planes(part[dim : 2 * dim]), part[2 * dim :]))
            for part in self.qkvo.parameters()
        )
        joint = convolve(x, weight, bias, groups=1)
        values, gate = joint[..., 2 * dim :].chunk(2, dim=-1)
        v = split_heads(values.flatten(1, 2), heads)
        q, k = elu_plus_one(joint[..., : 2 * dim]).flatten(1, 2).chunk(2, dim=-1)
        mean = q.mean(dim=1, keepdim=True) * (dim // heads) ** -0.5
        weights = (k @ (mean * self.channels).mT).softmax(dim=1)
        total = q @ (weights.mT @ k * self.channels).mT + EPS
        context = (turned_planes(k, turn, heads) * weights.mT[..., None]).mT @ v
        mixed = turned_planes(q, turn, heads) @ context
        local = convolve(values, self.lepe.weight, self.lepe.bias, groups=dim)
        local = split_heads(local.flatten(1, 2), heads)
        both = torch.addcmul(local, mixed, 1 / total.mT[..., None])
        gated = merge_heads(both).view(x.shape) * gate
        return convolve(gated, self.proj.weight, self.proj.bias, groups=1)


def elu_plus_one(x: Tensor) -> Tensor:
    """ELU(x) + 1 of operators that torch has in vectors on a CPU, where it has ELU in none."""
    positive = x.relu()
    return (x - positive).exp() + positive


def turn_of(head_dim: int, grid: Grid) -> Float[Tensor, "2 tokens pairs"]:
    """The first half of a head's channels turns with the row, the second with the column."""
    pairs = head_dim // 4
    down = angles(grid.height, pairs)[:, None].expand(-1, grid.width, -1)
    across = angles(grid.width, pairs).expand(grid.height, -1, -1)
    return cos_and_sin(torch.cat((down, across), dim=-1).flatten(0, 1))


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """5 N C^2 + 2 N C d + 27 N C, d = C / heads; 25 N C of it are the convolution."""
    return grid.tokens * dim * (5 * dim + 2 * (dim // num_heads) + 27)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Heads without pairs of channels for rows and for columns."""
    head_dim = dim // num_heads
    if head_dim % 4:
        return (
            "pairs of channels turn with the row or with the column, so a head's width must be a "
            f"multiple of 4, got {head_dim}"
        )
    return None


ATTENTION = AttentionSpec(
    module=RankAugmented,
    params=Params,
    family="linear",
    paper=Paper(
        title="Breaking the Low-Rank Dilemma of Linear Attention",
        arxiv="2411.07635",
        venue="CVPR 2025",
        code="https://github.com/qhfan/RALA",
    ),
    equation="W(O * (R(Q) sum_j a_j R(K_j) V_j^T / Q sum_j a_j K_j + DWConv5x5(V))), "
    "a = softmax(mean(Q) K^T / sqrt(d)), Q and K of elu + 1, R turned by position",
    cost="5NC^2 + 2NCd, d = C / heads",
    size_rule="any",
    # Those of RAVLT, whose last two stages have softmax attention.
    settings={4: {}, 8: {}},
    impls=("eager", "fused"),
    kernels="1 x 1 convolutions of channels-last maps, matmul by heads",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "positions turn queries and keys in the product with the values and not in the sum that it "
        "is divided by: weights of a token may be negative, and do not sum to 1",
        "the authors' published models have softmax attention at strides 16 and 32",
        "the mean query is that of the map: with its size, what weighs the keys changes",
        "outputs are multiplied by a projection of the token itself, without an activation",
    ),
)
