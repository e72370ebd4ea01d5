"""Mask unit attention: plain attention inside the squares that pretraining masks as a whole.

arXiv 2306.00989 (Hiera). The first stages attend inside mask units, which lie further apart in
pixels than they grow in tokens: 8 x 8 tokens at stride 4, 4 x 4 at stride 8. The later stages
attend over the whole map. No shift, no bias, no convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import merge, pad_to_multiple, partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    window_size  side of a mask unit in tokens; 0 makes the whole map one unit
    """

    window_size: int = 8


class MaskUnit(nn.Module):
    """Mask unit attention. Names as in the authors' MaskUnitAttention: qkv, proj.

    In: what they do on tokens in unrolled order, here on a map; that order says which token is
    where, and changes no result. Out: the pooling of queries where a stage begins, since it halves
    the map. Padding is that of the authors' Hiera in SAM 2: zeros on the right and at the bottom,
    unmasked.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        self.window_size = params.window_size
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        height, width = x.shape[1:3]
        unit = (self.window_size or height, self.window_size or width)
        x = pad_to_multiple(x, *unit)
        parts = self.qkv(partition(x, *unit)).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        mixed = self.proj(merge_heads(attend(q, k, v, impl=self.impl)))
        return merge(mixed, *unit, Grid(x.shape[1], x.shape[2]))[:, :height, :width]


def unit_on(grid: Grid, params: Params) -> tuple[int, int]:
    """Height and width of a mask unit."""
    return params.window_size or grid.height, params.window_size or grid.width


def computed(grid: Grid, params: Params) -> Grid:
    """The grid padded to whole units."""
    return grid.padded_to(*unit_on(grid, params))


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N T C, T the tokens of a unit, N the padded tokens."""
    tokens = computed(grid, params).tokens
    height, width = unit_on(grid, params)
    return 4 * tokens * dim**2 + 2 * tokens * height * width * dim


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    size = params.window_size
    return None if size >= 0 else f"window_size must be at least 0, got {size}"


ATTENTION = AttentionSpec(
    module=MaskUnit,
    params=Params,
    family="window",
    paper=Paper(
        title="Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles",
        arxiv="2306.00989",
        venue="ICML 2023",
        code="https://github.com/facebookresearch/hiera",
    ),
    equation="softmax(Q K^T / sqrt(d)) V inside each mask unit, or over all tokens",
    cost="4NC^2 + 2w^2NC, 4NC^2 + 2N^2C over all tokens",
    size_rule="pad",
    settings={
        4: {"window_size": 8},
        8: {"window_size": 4},
        16: {"window_size": 0},
        32: {"window_size": 0},
    },
    space={"window_size": (0, 2, 7, 14)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "a mask unit keeps its 32 x 32 pixels while the strides grow, so that at stride 8 it has "
        "fewer tokens; windows keep their tokens",
        "at strides 16 and 32 it is MSA: all that differs is in the earlier stages",
        "the authors take images of whole units; padding is attended to, as in SAM 2",
        "the first layer of a stage pools its queries, which this does not",
    ),
)
