"""Cross-shaped windows: stripes down the map for half of the heads, across it for the others.

arXiv 2107.00652 (CSWin). A token attends to the whole column stripe and the whole row stripe that
it lies in; a depthwise convolution of the values inside each stripe adds the position (LePE).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import merge, partition

# Height and width of the stripes; None is the map's own.
Stripe = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    split_size  sw, the width of the stripes in tokens
    branches    2: vertical stripes for the first half of the heads, horizontal ones for the second;
                1: full attention, as in the authors' last stage
    """

    split_size: int = 7
    branches: int = 2
    qkv_bias: bool = True


class CrossWindow(nn.Module):
    """Cross-shaped window attention. Parameter names as in the authors' CSWinBlock.

    In: what CSWinBlock calls qkv, attns and proj, LePE included. Out: its two norms, its MLP and
    its residuals, which are not the mechanism. Like theirs, it has a single branch on a square map
    of split_size, where a stripe is the whole map. A map that the stripes do not divide is padded
    as in the authors' segmentation code: q, k and v with zeros, half on either side.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        stripes: list[Stripe] = [(None, params.split_size), (params.split_size, None)]
        if branches_on(grid, params.split_size, params.branches) == 1:
            stripes = [(None, None)]
        share = len(stripes)
        self.qkv = nn.Linear(dim, 3 * dim, bias=params.qkv_bias)
        self.attns = nn.ModuleList(
            StripeAttention(dim // share, num_heads // share, stripe, impl) for stripe in stripes
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        qkv = self.qkv(x).unflatten(-1, (3, len(self.attns), -1))
        mixed = [attn(qkv[..., index, :].flatten(-2)) for index, attn in enumerate(self.attns)]
        return self.proj(torch.cat(mixed, dim=-1))


class StripeAttention(nn.Module):
    """Attention inside stripes, plus a depthwise 3 x 3 convolution of their values (LePE).

    get_v, the authors' name, is that convolution. It sees one stripe at a time, with zeros around.
    """

    def __init__(self, dim: int, num_heads: int, stripe: Stripe, impl: Impl) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.stripe = stripe
        self.impl: Impl = impl
        self.get_v = nn.Conv2d(dim, dim, kernel_size=3, padding=1, groups=dim)

    def forward(self, qkv: Float[Tensor, "batch height width three_dim"]) -> FeatureMap:
        height, width = qkv.shape[1:3]
        rows, columns = self.stripe[0] or height, self.stripe[1] or width
        top, left = -height % rows // 2, -width % columns // 2
        bottom, right = -height % rows - top, -width % columns - left
        if top or bottom or left or right:
            qkv = F.pad(qkv, (0, 0, left, right, top, bottom))
        q, k, v = partition(qkv, rows, columns).chunk(3, dim=-1)
        heads = (split_heads(part, self.num_heads) for part in (q, k, v))
        mixed = merge_heads(attend(*heads, impl=self.impl)) + self.lepe(v, rows, columns)
        merged = merge(mixed, rows, columns, Grid(qkv.shape[1], qkv.shape[2]))
        return merged[:, top : top + height, left : left + width]

    def lepe(
        self, v: Float[Tensor, "batch stripes tokens dim"], rows: int, columns: int
    ) -> Float[Tensor, "batch stripes tokens dim"]:
        """The locally-enhanced position encoding of each stripe's values."""
        maps = v.flatten(0, 1).unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
        return self.get_v(maps).permute(0, 2, 3, 1).reshape_as(v)


def branches_on(grid: Grid, split_size: int, branches: int) -> int:
    """1 where the authors' code has one branch, of full attention, whatever was asked for."""
    return 1 if grid.height == grid.width == split_size else branches


def _stripes(grid: Grid, split_size: int, branches: int) -> list[tuple[Grid, int]]:
    """For each branch its padded map and the number of tokens in a stripe."""
    if branches_on(grid, split_size, branches) == 1:
        return [(grid, grid.tokens)]
    return [
        (grid.padded_to(1, split_size), grid.height * split_size),
        (grid.padded_to(split_size, 1), grid.width * split_size),
    ]


def computed(grid: Grid, params: Params) -> Grid:
    """The padded map of the branch that pads more; the projections never see the padding."""
    padded = (padded for padded, _ in _stripes(grid, params.split_size, params.branches))
    return max(padded, key=lambda map_: map_.tokens)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2, and for each of b branches 2 M S C / b + 9 M C / b.

    M are the padded tokens of the branch, S those of one stripe: H sw or W sw, N in full attention.
    """
    stripes = _stripes(grid, params.split_size, params.branches)
    inside = sum(padded.tokens * (2 * tokens + 9) for padded, tokens in stripes)
    return 4 * grid.tokens * dim**2 + inside * dim // len(stripes)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range, and heads that two branches cannot share."""
    if params.split_size < 1:
        return f"split_size must be at least 1, got {params.split_size}"
    branches = params.branches
    if branches not in (1, 2):
        return f"branches must be 1 (full attention) or 2 (stripes both ways), got {branches}"
    if num_heads % branches_on(grid, params.split_size, params.branches):
        return f"two branches share the heads, so num_heads must be even, got {num_heads}"
    return None


ATTENTION = AttentionSpec(
    module=CrossWindow,
    params=Params,
    family="window",
    paper=Paper(
        title="CSWin Transformer: A General Vision Transformer Backbone with Cross-Shaped Windows",
        arxiv="2107.00652",
        venue="CVPR 2022",
        code="https://github.com/microsoft/CSWin-Transformer",
    ),
    equation="[softmax(Q K^T / sqrt(d)) V + DWConv_3x3(V) in H x sw stripes, the same in sw x W]",
    cost="4NC^2 + sw(H + W)NC + 9NC",
    size_rule="pad",
    settings={
        4: {"split_size": 1, "branches": 2},
        8: {"split_size": 2, "branches": 2},
        16: {"split_size": 7, "branches": 2},
        32: {"split_size": 7, "branches": 1},
    },
    space={"split_size": (1, 2, 7)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "the position convolution stops at the stripe's border: it pads with zeros there",
        "the last stage is full attention, with one branch of all heads",
        "padding comes after qkv, half on either side, and is attended to with score and value 0",
        "cost grows with the side of the map: a stripe is as long as the map",
    ),
)
