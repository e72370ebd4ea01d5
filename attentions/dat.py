"""DAT: deformable attention, keys and values sampled where the queries point.

arXiv 2201.00520, as first released. From the queries a small network predicts an offset for every
point of a regular grid; the map is sampled at the moved points, and every token attends to those
samples, with a position bias that is sampled as well, for points lie between tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper

PositionBias = Literal["table", "conv", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    groups         channel groups, each with sampling points of its own
    stride         tokens from one sampling point to the next
    kernel_size    side of the offset network's depthwise convolution, odd
    offset_range   s: offsets are bounded by tanh to s/2 times the distance of two points;
                   0 does not bound them, a negative number bounds the moved points by tanh
    position_bias  "table": a relative bias for every pair of query and point, read between the
                   table's entries; "conv": a depthwise 3 x 3 convolution of the queries is added
                   to the output; "none"
    """

    groups: int = 3
    stride: int = 1
    kernel_size: int = 5
    offset_range: float = 2
    position_bias: PositionBias = "table"


class DAT(nn.Module):
    """Deformable attention. Parameter names as in the authors' DAttentionBaseline.

    In: the authors' conv_offset, proj_q, proj_k, proj_v, proj_out and rpe_table, all of
    DAttentionBaseline as first released; DAT++, its later form, is another function. Out: their
    no_off and fixed_pe, which raise in that release. A table belongs to the grid it was built for.
    """

    rpe_table: nn.Parameter | nn.Conv2d | None

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.grid = grid
        self.num_heads = num_heads
        self.groups = params.groups
        self.offset_range = params.offset_range
        self.position_bias = params.position_bias
        self.impl: Impl = impl
        width, side = dim // params.groups, params.kernel_size
        self.conv_offset = nn.Sequential(
            nn.Conv2d(width, width, side, params.stride, side // 2, groups=width),
            ChannelNorm(width),
            nn.GELU(),
            nn.Conv2d(width, 2, kernel_size=1, bias=False),
        )
        self.proj_q = nn.Conv2d(dim, dim, kernel_size=1)
        self.proj_k = nn.Conv2d(dim, dim, kernel_size=1)
        self.proj_v = nn.Conv2d(dim, dim, kernel_size=1)
        self.proj_out = nn.Conv2d(dim, dim, kernel_size=1)
        if params.position_bias == "table":
            shape = (num_heads, 2 * grid.height - 1, 2 * grid.width - 1)
            self.rpe_table = nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.01))
        elif params.position_bias == "conv":
            self.rpe_table = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)
        else:
            self.rpe_table = None

    def forward(self, x: FeatureMap) -> FeatureMap:
        x = x.permute(0, 3, 1, 2)
        query = self.proj_q(x)
        points = self.points(query)
        sampled = self.sample(x, points)
        if self.impl == "fused":
            # The attention kernel takes keys and values whose channels lie side by side.
            sampled = sampled.contiguous(memory_format=torch.channels_last)
        q, k, v = (
            split_heads(part.flatten(2).transpose(1, 2), self.num_heads)
            for part in (query, self.proj_k(sampled), self.proj_v(sampled))
        )
        table = self.rpe_table
        bias = self.bias(table, query, points) if isinstance(table, nn.Parameter) else None
        mixed = merge_heads(attend(q, k, v, impl=self.impl, bias=bias))
        mixed = mixed.transpose(1, 2).unflatten(2, x.shape[2:])
        if isinstance(table, nn.Conv2d):
            mixed = mixed + table(query)
        return self.proj_out(mixed).permute(0, 2, 3, 1)

    def points(
        self, query: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch_groups rows columns 2"]:
        """Where to sample, (x, y) from -1 to 1: a regular grid moved by the offset network.

        In fp32 for half types, as the authors' code is under autocast: with the 8 bits of bf16 a
        point on a 64-token side would be off by an eighth of a token.
        """
        offset = self.conv_offset(query.unflatten(1, (self.groups, -1)).flatten(0, 1))
        offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
        down, right = offset.unbind(1)
        y = self.moved(down, centres(down.shape[1], down)[:, None])
        x = self.moved(right, centres(right.shape[2], right))
        return torch.stack((x, y), dim=-1)

    def moved(
        self, offset: Float[Tensor, "batch_groups rows columns"], centre: Float[Tensor, "*size"]
    ) -> Float[Tensor, "batch_groups rows columns"]:
        """One coordinate of the points; `centre` holds its values before the move."""
        if self.offset_range > 0:
            return centre + offset.tanh() * (self.offset_range / centre.numel())
        point = centre + offset
        return point if self.offset_range == 0 else point.tanh()

    def sample(
        self,
        x: Float[Tensor, "batch dim height width"],
        points: Float[Tensor, "batch_groups rows columns 2"],
    ) -> Float[Tensor, "batch dim rows columns"]:
        """The map at the points, bilinear, each group of channels at its own."""
        split = x.unflatten(1, (self.groups, -1)).flatten(0, 1).to(points.dtype)
        sampled = F.grid_sample(split, points, align_corners=True)
        return sampled.unflatten(0, (-1, self.groups)).flatten(1, 2).to(x.dtype)

    def bias(
        self,
        table: Float[Tensor, "heads twice_height twice_width"],
        query: Float[Tensor, "batch dim height width"],
        points: Float[Tensor, "batch_groups rows columns 2"],
    ) -> Float[Tensor, "batch heads tokens points"]:
        """The table at half the displacement from each point to each query, bilinear."""
        batch, _, height, width = query.shape
        if (height, width) != (self.grid.height, self.grid.width):
            raise ValueError(f"the bias table is for {self.grid}, got {height} x {width}")
        y, x = centres(height, points, reach=0.5), centres(width, points, reach=0.5)
        queries = torch.stack((x.expand(height, width), y[:, None].expand(height, width)))
        # Halved before they are subtracted: there are far fewer of them than pairs. The coordinates
        # of all pairs lie one after the other, x before y: with two side by side torch subtracts
        # two numbers at a time.
        from_points = points.flatten(1, 2).transpose(1, 2)[:, :, None] / 2
        apart = (queries.flatten(1)[:, :, None] - from_points).permute(0, 2, 3, 1)
        tables = table.unflatten(0, (self.groups, -1)).repeat(batch, 1, 1, 1).to(points.dtype)
        bias = F.grid_sample(tables, apart, align_corners=True)
        return bias.unflatten(0, (batch, self.groups)).flatten(1, 2).to(query.dtype)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of a channels-first map; norm, as the authors say."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def centres(size: int, like: Tensor, reach: float = 1) -> Float[Tensor, " size"]:
    """The centres of `size` equal cells between -reach and reach.

    Made at each call, by one operator: Module.to would round a buffer of them to half a type.
    """
    last = reach * (1 - 1 / size)
    return torch.linspace(-last, last, size, dtype=like.dtype, device=like.device)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """2 (N + M) C^2 + 2 N M C, with k^2 M C + 7 M C for the offsets and 4 M C for sampling.

    M = ceil(H / stride) ceil(W / stride) points. The bias adds 4 N M heads (table), 9 N C (conv).
    """
    tokens = grid.tokens
    points = -(-grid.height // params.stride) * -(-grid.width // params.stride)
    offsets = points * dim * (params.kernel_size**2 + 5 + 2)
    bias = {"table": 4 * tokens * points * num_heads, "conv": 9 * tokens * dim, "none": 0}
    return (
        2 * (tokens + points) * dim**2
        + 2 * tokens * points * dim
        + offsets
        + 4 * points * dim
        + bias[params.position_bias]
    )


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range, and heads that the groups cannot share."""
    if params.groups < 1 or num_heads % params.groups:
        return f"num_heads must be divisible by groups, got {num_heads} and {params.groups}"
    if params.stride < 1:
        return f"stride must be at least 1, got {params.stride}"
    if params.kernel_size < 1 or params.kernel_size % 2 == 0:
        return f"kernel_size must be an odd number from 1 on, got {params.kernel_size}"
    if params.position_bias not in ("table", "conv", "none"):
        return f"position_bias is one of table, conv, none, got {params.position_bias!r}"
    return None


ATTENTION = AttentionSpec(
    module=DAT,
    params=Params,
    family="sparse",
    paper=Paper(
        title="Vision Transformer with Deformable Attention",
        arxiv="2201.00520",
        venue="CVPR 2022",
        code="https://github.com/LeapLabTHU/DAT",
    ),
    equation="softmax(Q K'^T / sqrt(d) + B) V', K' and V' from x sampled at p + s tanh(offset(Q))",
    cost="2(1 + 1/r^2)NC^2 + 2N^2C/r^2 + 4hN^2/r^2, stride r, h heads",
    size_rule="fixed",
    # The authors use window attention at strides 4 and 8.
    settings={
        16: {"groups": 3, "stride": 1, "kernel_size": 5, "offset_range": 2},
        32: {"groups": 6, "stride": 1, "kernel_size": 3, "offset_range": 2},
    },
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention, grid_sample",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the authors' repository now holds DAT++; this is its first release",
        "the bias is sampled for every pair of query and point: 4 heads N^2 MACs, and its N^2 "
        "coordinates per group are most of the memory",
        "points are cell centres, read as if -1 and 1 were the centres of the outer tokens: "
        "without any offset they lie between tokens, up to half a token inward at the edges",
        "the table is as large as the map it was built for",
    ),
)
