"""Grid attention: every token attends to a sparse grid of tokens spread over the whole map.

arXiv 2204.01697 (MaxViT). A grid of G x G tokens, H / G and W / G apart, takes the place of a
window: where a window is dense and local, the grid is sparse and global.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import (
    merge,
    pad_to_multiple,
    relative_position_index,
    tokens_first,
    window_on,
)


class RelativePosition(nn.Module):
    """One learned bias for each offset between two tokens of a grid, for each head.

    The table has the shape of the authors' relative_bias, and is indexed as theirs is: by the
    key's position less the query's (Swin's is indexed by the opposite).
    """

    index: Tensor

    def __init__(self, num_heads: int, height: int, width: int) -> None:
        super().__init__()
        table = torch.empty(num_heads, 2 * height - 1, 2 * width - 1)
        self.relative_position_bias_table = nn.Parameter(nn.init.normal_(table, std=0.02))
        index = relative_position_index(height, width).T.contiguous()
        self.register_buffer("index", index, persistent=False)

    def forward(self) -> Float[Tensor, "heads tokens tokens"]:
        return self.relative_position_bias_table.flatten(1)[:, self.index]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    grid_size               G, tokens along each side of a grid
    relative_position_bias  adds a learned bias for each offset inside the grid
    """

    grid_size: int = 7
    relative_position_bias: bool = True
    qkv_bias: bool = True


class GridAttention(nn.Module):
    """Grid attention with the relative bias of MaxViT.

    The authors' code is in TensorFlow. Parameters carry the names under which their weights are
    published for PyTorch, in timm's maxvit_*_tf models: qkv, proj and
    rel_pos.relative_position_bias_table.

    A side of the map that is no longer than the grid has a grid as long as the side. The authors
    take multiples of the grid only; other maps are padded with zeros on the right and at the
    bottom, unmasked, as windows are.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.impl: Impl = impl
        self.grid_size = window_on(grid, params.grid_size)
        self.qkv = nn.Linear(dim, 3 * dim, bias=params.qkv_bias)
        self.rel_pos = (
            RelativePosition(num_heads, *self.grid_size) if params.relative_position_bias else None
        )
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        bias = None if self.rel_pos is None else self.rel_pos()
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, *self.grid_size)
        padded = Grid(x.shape[1], x.shape[2])
        # The tokens at one place of every window of (H / G) x (W / G) form a grid.
        cell = padded.height // self.grid_size[0], padded.width // self.grid_size[1]
        parts = self.qkv(tokens_first(x, *cell)).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        mixed = self.proj(merge_heads(attend(q, k, v, impl=self.impl, bias=bias)))
        return merge(mixed.transpose(1, 2), *cell, padded)[:, :height, :width]


def computed(grid: Grid, params: Params) -> Grid:
    """The grid padded to multiples of G."""
    return grid.padded_to(*window_on(grid, params.grid_size))


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N G^2 C, N the padded tokens."""
    tokens = computed(grid, params).tokens
    height, width = window_on(grid, params.grid_size)
    return 4 * tokens * dim**2 + 2 * tokens * height * width * dim


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    size = params.grid_size
    return None if size >= 1 else f"grid_size must be at least 1, got {size}"


ATTENTION = AttentionSpec(
    module=GridAttention,
    params=Params,
    family="sparse",
    paper=Paper(
        title="MaxViT: Multi-Axis Vision Transformer",
        arxiv="2204.01697",
        venue="ECCV 2022",
        code="https://github.com/google-research/maxvit",
    ),
    equation="softmax(Q K^T / sqrt(d) + B) V over G x G tokens that are H / G and W / G apart",
    cost="4NC^2 + 2G^2NC",
    size_rule="pad",
    settings={4: {"grid_size": 7}, 8: {"grid_size": 7}, 16: {"grid_size": 7}, 32: {"grid_size": 7}},
    space={"grid_size": (2, 7, 14)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "G is the number of tokens of a grid, not their distance: the transpose of a window",
        "the bias is indexed by key less query, Swin's by query less key",
        "padding is attended to, and reaches the whole map: every grid ends in the last rows",
        "the authors train 7 at 224, 12 at 384 and 16 at 512 pixels",
    ),
)
