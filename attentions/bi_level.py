"""Bi-level routing attention: regions choose regions, and tokens attend inside the chosen ones.

arXiv 2303.08810 (BiFormer). The map is cut into S x S regions. Means of queries and of keys score
each region against each; every token attends to the tokens of the k regions that scored highest for
its own. A depthwise convolution of the values is added.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, split_heads
from attentions._conv_norm import convolve
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import merge, pad_to_multiple, partition

Regions = Float[Tensor, "batch regions tokens channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    n_win        S, regions along each side of the map
    topk         k, the regions that a region attends to; all, where there are fewer
    side_dwconv  side of the convolution of the values, odd; 0 leaves it out
    """

    n_win: int = 7
    topk: int = 16
    side_dwconv: int = 5


class JointProjection(nn.Module):
    """Queries, keys and values of a token. Names as in the authors' QKVLinear: qkv."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Regions) -> tuple[Regions, Regions]:
        """(queries, keys and values)."""
        dim = x.shape[-1]
        q, kv = self.qkv(x).split((dim, 2 * dim), dim=-1)
        return q, kv


class BiLevel(nn.Module):
    """Bi-level routing attention. Names as in the authors' BiLevelRoutingAttention: qkv.qkv, wo,
    lepe.

    In: the hard routing of their models, without parameters and without a gradient, and their
    zero-padding on the right and at the bottom, which is attended to. Out: routing that is learned
    or soft, and smaller keys, which no published model has. Near a tie the choice of regions turns
    on a rounding error.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        self.n_win = params.n_win
        self.topk = min(params.topk, params.n_win**2)
        self.scale = dim**-0.5
        self.qkv = JointProjection(dim)
        self.wo = nn.Linear(dim, dim)
        self.lepe: nn.Conv2d | None = None
        if side := params.side_dwconv:
            self.lepe = nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.n_win, self.n_win)
        padded = Grid(x.shape[1], x.shape[2])
        region = (padded.height // self.n_win, padded.width // self.n_win)
        q, kv = self.qkv(partition(x, *region))
        mixed = merge(self._attend(q, kv), *region, padded)
        if self.lepe is not None:
            mixed = mixed + self._local(merge(kv[..., x.shape[3] :], *region, padded))
        return self.wo(mixed)[:, :height, :width]

    def _attend(self, q: Regions, kv: Regions) -> Regions:
        chosen = self.route(q, kv[..., : q.shape[3]])
        gather = gathered if self.impl == "eager" else gathered_in_rows
        keys, values = gather(kv, chosen).chunk(2, dim=-1)
        heads = (split_heads(part, self.num_heads) for part in (q, keys, values))
        return merge_heads(attend(*heads, impl=self.impl, scale=self.scale))

    def route(self, q: Regions, k: Regions) -> Int[Tensor, "batch regions chosen"]:
        """The regions that each region attends to, by the product of its mean query with their
        mean keys."""
        scores = q.detach().mean(dim=2) @ k.detach().mean(dim=2).transpose(1, 2)
        return scores.topk(self.topk, dim=-1, sorted=False).indices

    def _local(self, v: FeatureMap) -> FeatureMap:
        assert self.lepe is not None
        if self.impl == "eager":
            return self.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return convolve(v, self.lepe.weight, self.lepe.bias, groups=v.shape[3])


def gathered(
    kv: Regions, chosen: Int[Tensor, "batch regions chosen"]
) -> Float[Tensor, "batch regions chosen_tokens channels"]:
    """The tokens of the chosen regions of each image."""
    tokens = kv[:, None].expand(-1, kv.shape[1], -1, -1, -1)
    index = chosen[..., None, None].expand(-1, -1, -1, *kv.shape[2:])
    return tokens.gather(2, index).flatten(2, 3)


def gathered_in_rows(
    kv: Regions, chosen: Int[Tensor, "batch regions chosen"]
) -> Float[Tensor, "batch regions chosen_tokens channels"]:
    """The same, as whole rows of a table that has a row for each region of each image."""
    images, regions = kv.shape[:2]
    first = torch.arange(0, images * regions, regions, device=kv.device)
    rows = kv.flatten(0, 1).flatten(1)
    return rows.index_select(0, (chosen + first[:, None, None]).flatten()).view(
        images, regions, -1, kv.shape[3]
    )


def computed(grid: Grid, params: Params) -> Grid:
    """The grid padded to whole regions."""
    return grid.padded_to(params.n_win, params.n_win)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N (k N / S^2) C + S^4 C + D^2 N C, D the side of the convolution.

    N are the padded tokens. The regions' scores are S^4 C of it.
    """
    tokens, regions = computed(grid, params).tokens, params.n_win**2
    keys = min(params.topk, regions) * (tokens // regions)
    return dim * (tokens * (4 * dim + 2 * keys + params.side_dwconv**2) + regions**2)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.n_win < 1:
        return f"n_win must be at least 1, got {params.n_win}"
    if params.topk < 1:
        return f"topk must be at least 1, got {params.topk}"
    side = params.side_dwconv
    if side < 0 or (side and side % 2 == 0):
        return f"side_dwconv must be odd, or 0 for no convolution, got {side}"
    return None


ATTENTION = AttentionSpec(
    module=BiLevel,
    params=Params,
    family="sparse",
    paper=Paper(
        title="BiFormer: Vision Transformer with Bi-Level Routing Attention",
        arxiv="2303.08810",
        venue="CVPR 2023",
        code="https://github.com/rayleizhu/BiFormer",
    ),
    equation="softmax(Q K_r^T / sqrt(C)) V_r + DWConv5x5(V), r the k regions with the largest "
    "mean(Q)^T mean(K)",
    cost="4NC^2 + 2(k/S^2)N^2C + 25NC",
    size_rule="pad",
    # Those of BiFormer-T, whose last stage has MSA with a convolution of the values.
    settings={4: {"topk": 1}, 8: {"topk": 4}, 16: {"topk": 16}},
    space={"topk": (1, 2, 4, 8, 16)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention over gathered regions",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    checked_with={"topk": 49},
    traps=(
        "scores are divided by the root of dim, not of head_dim: with all regions chosen it is MSA "
        "of softer scores",
        "a fixed number of regions: their tokens grow with the map, and so does the cost of a "
        "token; the authors take 8 x 8 regions for segmentation and 16 x 16 for detection",
        "keys and values are copied k times, once for each region that chose them",
        "all heads share the choice, which has no gradient",
        "padding is attended to, counts in the means of regions, and carries the biases of keys "
        "and values, as in the authors' code of these models; their later code, and birder's, pads "
        "after the projection and leaves padding out of the means",
        "a choice near a tie turns on rounding: in another dtype a few tokens may attend elsewhere",
    ),
)
