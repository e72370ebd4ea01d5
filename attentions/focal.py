"""Focal attention: fine keys in and around the window, pooled keys further away.

arXiv 2107.00641 (Focal Transformer). The queries of a window share their keys: the window's own
tokens, the tokens around it, and the windows around it, each pooled to one token or to one for
every part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, apart, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import gather, merge, pad_to_multiple, partition, tokens_first

PoolMethod = Literal["fc", "conv", "mean", "max", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    window_size   side of the windows in tokens
    expand_size   tokens that the fine keys reach beyond the window, at most window_size
    focal_level   1: fine keys only; 2: also windows pooled to one token; 3: also windows pooled to
                  2 x 2 tokens; and so on
    focal_window  side in windows of the square around the window that is seen pooled, odd
    pool_method   how tokens become one: a weight for each position ("fc"), for each position and
                  channel ("conv"), "mean", "max"; "none" leaves the pooled keys out
    """

    window_size: int = 7
    expand_size: int = 3
    focal_level: int = 2
    focal_window: int = 3
    pool_method: PoolMethod = "fc"
    qkv_bias: bool = True


class Focal(nn.Module):
    """Focal attention. Parameter names as in the authors' WindowAttention, and pool_layers.

    In: their WindowAttention, which is attn in their block, and the block's pool_layers, which make
    its input; the prefix "attn." goes. Out: the block's norms, MLP and residuals, and its shift,
    which is off in all their models. As in the block, on a map no longer than the window along its
    shorter side the window is cut to that side and nothing is expanded. The buffers
    valid_ind_rolled and valid_ind_unfold_* are there for their checkpoints.
    """

    relative_position_index: Tensor
    fine_offsets: Tensor
    key_index: Tensor
    key_mask: Tensor

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.window, self.expand = fitted(grid, params.window_size, params.expand_size)
        self.num_heads = num_heads
        self.focal_window = params.focal_window
        self.pool_method = params.pool_method
        self.pooled_levels = 0 if params.pool_method == "none" else params.focal_level - 1
        self.impl: Impl = impl
        self.qkv = nn.Linear(dim, 3 * dim, bias=params.qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.pool_layers = nn.ModuleList()
        self._add_fine_keys()
        if self.pooled_levels:
            self.relative_position_bias_table_to_windows = nn.ParameterList()
        for level in range(self.pooled_levels):
            self._add_pooled_keys(level, dim)
        self._grid = grid.padded_to(self.window, self.window)
        index, mask = self.keys_on(self._grid)
        self.register_buffer("key_index", index, persistent=False)
        self.register_buffer("key_mask", mask, persistent=False)

    def _add_fine_keys(self) -> None:
        side, heads = self.window, self.num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        self.register_buffer("relative_position_index", offset_index(side, side))
        inside = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        around, valid = surroundings(side, self.expand)
        self.register_buffer("fine_offsets", torch.cat((inside, around)), persistent=False)
        if self.expand:
            table = torch.empty(1, heads, side**2, len(around))
            self.relative_position_bias_table_to_neighbors = nn.Parameter(
                nn.init.trunc_normal_(table, std=0.02)
            )
            self.register_buffer("valid_ind_rolled", valid)

    def _add_pooled_keys(self, level: int, dim: int) -> None:
        side, seen = self.window, seen_at(level, self.focal_window)
        table = torch.empty(self.num_heads, (side + seen - 1) ** 2)
        self.relative_position_bias_table_to_windows.append(
            nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        )
        self.register_buffer(f"relative_position_index_{level}", offset_index(side, seen))
        if level:
            margin = 2**level - 1
            kernel = torch.zeros(seen + margin, seen + margin)
            kernel[margin:, margin:] = 1
            valid = kernel.flatten().nonzero().flatten()
            self.register_buffer(f"valid_ind_unfold_{level}", valid)
        part = side >> level
        if self.pool_method == "fc":  # begins as the mean
            pool = nn.Linear(part**2, 1)
            nn.init.constant_(pool.weight, 1 / part**2)
            nn.init.zeros_(pool.bias)
            self.pool_layers.append(pool)
        elif self.pool_method == "conv":
            self.pool_layers.append(nn.Conv2d(dim, dim, part, stride=part, groups=dim))

    def forward(self, x: FeatureMap) -> FeatureMap:
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.window, self.window)
        padded = Grid(x.shape[1], x.shape[2])
        built_for = padded == self._grid
        index, mask = (self.key_index, self.key_mask) if built_for else self.keys_on(padded)
        q, k, v = (split_heads(part, self.num_heads) for part in self.project(x, index))
        mixed = attend(q, k, v, impl=self.impl, bias=self.bias(mask))
        merged = merge(merge_heads(mixed), self.window, self.window, padded)
        return self.proj(merged)[:, :height, :width]

    def pooled(self, x: FeatureMap, level: int) -> Float[Tensor, "batch pooled dim"]:
        """The map with each window pooled to 2^level x 2^level tokens.

        Where that does not divide the window, tokens are left out: at the map's edges, all of them,
        and not at each window's.
        """
        part = self.window >> level
        height, width = (size // self.window * 2**level * part for size in x.shape[1:3])
        top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
        x = x[:, top : top + height, left : left + width]
        if self.pool_method == "conv":
            return self.pool_layers[level](x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        parts = partition(x, part, part)
        if self.pool_method == "fc":
            return self.pool_layers[level](parts.transpose(2, 3)).flatten(2)
        return parts.mean(dim=2) if self.pool_method == "mean" else parts.amax(dim=2)

    def project(
        self, x: FeatureMap, index: Int[Tensor, "keys windows"]
    ) -> list[Float[Tensor, "batch windows _ dim"]]:
        """Queries, keys and values of each window.

        The authors project pooled tokens to queries too, which nothing reads; fused does not.
        """
        pooled = [self.pooled(x, level) for level in range(self.pooled_levels)]
        tokens, side = torch.cat((x.flatten(1, 2), *pooled), dim=1), self.window
        if self.impl == "eager":
            q, kv = self.qkv(tokens).split((x.shape[3], 2 * x.shape[3]), dim=2)
            q = q[:, : x.shape[1] * x.shape[2]].unflatten(1, x.shape[1:3])
            return [partition(q, side, side), *gather(with_zeros(kv), index.T).chunk(2, dim=-1)]
        of_q, *of_kv = apart(self.qkv, 3)
        q = tokens_first(F.linear(x, *of_q), side, side)
        kv = (gather(with_zeros(F.linear(tokens, *part)), index) for part in of_kv)
        return [part.transpose(1, 2) for part in (q, *kv)]

    def bias(
        self, mask: Float[Tensor, "windows 1 1 keys"]
    ) -> Float[Tensor, "windows heads window_tokens keys"]:
        """The learned biases of all keys, and the mask."""
        parts = [self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)]
        if self.expand:
            parts.append(self.relative_position_bias_table_to_neighbors[0])
        for level in range(self.pooled_levels):
            table = self.relative_position_bias_table_to_windows[level]
            parts.append(table[:, getattr(self, f"relative_position_index_{level}")])
        return torch.cat(parts, dim=-1) + mask

    def keys_on(
        self, grid: Grid
    ) -> tuple[Int[Tensor, "keys windows"], Float[Tensor, "windows 1 1 keys"]]:
        """For each window the positions of its keys: map, pooled maps, and one row for outside; and
        -100 for keys outside the map, as the authors, else 0.

        Fine keys wrap round the map's edges, as the authors' rolled maps do.
        """
        offsets = self.fine_offsets
        rows = torch.arange(0, grid.height, self.window, device=offsets.device)
        columns = torch.arange(0, grid.width, self.window, device=offsets.device)
        row = (rows[:, None, None] + offsets[:, 0]) % grid.height
        column = (columns[None, :, None] + offsets[:, 1]) % grid.width
        index, first = [(row * grid.width + column).flatten(0, 1)], grid.tokens
        for level in range(self.pooled_levels):
            size = Grid(len(rows) << level, len(columns) << level)
            seen = seen_around(size, 2**level, self.focal_window, offsets.device)
            index.append(torch.where(seen < 0, seen, seen + first))
            first += size.tokens
        together = torch.cat(index, dim=1)
        outside = together < 0
        mask = self.qkv.weight.new_zeros(outside.shape).masked_fill(outside, -100)
        return torch.where(outside, first, together).T.contiguous(), mask[:, None, None]


def with_zeros(
    tokens: Float[Tensor, "batch all_tokens channels"],
) -> Float[Tensor, "batch all_tokens_and_outside channels"]:
    """The tokens, and a row of zeros for the windows outside the map."""
    return F.pad(tokens, (0, 0, 0, 1))


def fitted(grid: Grid, window_size: int, expand_size: int) -> tuple[int, int]:
    """(window, expansion) on this map: one window along its shorter side leaves none around."""
    side = min(grid.height, grid.width)
    return (side, 0) if side <= window_size else (window_size, expand_size)


def seen_at(level: int, focal_window: int) -> int:
    """The side, in pooled tokens, of what a window sees at a pooled level."""
    return focal_window + 2**level - 1


def offset_index(queries: int, keys: int) -> Int[Tensor, "queries_squared keys_squared"]:
    """Entry of the bias table for every query of a square and every key of another.

    The table has (queries + keys - 1)^2 entries, one for each offset, in the authors' order.
    """
    apart = torch.arange(queries)[:, None] - torch.arange(keys)[None, :] + keys - 1
    index = apart[:, None, :, None] * (queries + keys - 1) + apart[None, :, None, :]
    return index.reshape(queries**2, keys**2)


def surroundings(
    window: int, expand: int
) -> tuple[Int[Tensor, "around 2"], Int[Tensor, " around"]]:
    """(offsets from the window's corner of the tokens around it, their authors' valid_ind_rolled).

    The window is moved by expand tokens towards each of its four corners, and what then lies
    outside it is kept. Two moves meet in the middle of a side: where window is more than twice
    expand the tokens between are kept twice, and where it is less they are left out.
    """
    if not expand:
        return torch.empty(0, 2, dtype=torch.long), torch.empty(0, dtype=torch.long)
    corner = torch.cartesian_prod(torch.arange(window), torch.arange(window))
    moves = torch.tensor([(1, 1), (1, -1), (-1, 1), (-1, -1)]) * expand
    moved = (corner[None] + moves[:, None]).flatten(0, 1)
    valid = ((moved < 0) | (moved >= window)).any(dim=1).nonzero().flatten()
    return moved[valid], valid


def seen_around(
    size: Grid, step: int, focal_window: int, device: torch.device
) -> Int[Tensor, "windows seen"]:
    """For each window the positions in a pooled map of what it sees there; -1 is outside the map.

    A window is step x step tokens of the pooled map, and sees focal_window // 2 beyond them.
    """
    reach = torch.arange(-(focal_window // 2), focal_window // 2 + step, device=device)
    row = torch.arange(0, size.height, step, device=device)[:, None] + reach
    column = torch.arange(0, size.width, step, device=device)[:, None] + reach
    row, column = row[:, None, :, None], column[None, :, None, :]
    inside = (row >= 0) & (row < size.height) & (column >= 0) & (column < size.width)
    return torch.where(inside, row * size.width + column, -1).flatten(0, 1).flatten(1)


def computed(grid: Grid, params: Params) -> Grid:
    """The grid padded to whole windows."""
    window, _ = fitted(grid, params.window_size, params.expand_size)
    return grid.padded_to(window, window)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N K C, and at each pooled level k, P = N 4^k / w^2: 3 P C^2 + P C (w / 2^k)^2.

    N are the padded tokens, K the keys of a window: w^2 of its own, 4 (w^2 - (w - e)^2) around it
    and (f + 2^k - 1)^2 at each pooled level. Mean and max pooling count nothing.
    """
    window, expand = fitted(grid, params.window_size, params.expand_size)
    tokens = grid.padded_to(window, window).tokens
    keys = window**2
    if expand:
        keys += 4 * window**2 - 4 * (window - expand) ** 2
    total = 4 * tokens * dim**2
    for level in range(0 if params.pool_method == "none" else params.focal_level - 1):
        pooled = tokens // window**2 * 4**level
        keys += seen_at(level, params.focal_window) ** 2
        total += 3 * pooled * dim**2
        if params.pool_method in ("fc", "conv"):
            total += pooled * dim * (window >> level) ** 2
    return total + 2 * tokens * keys * dim


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range, and windows too small for their parts."""
    if params.window_size < 1:
        return f"window_size must be at least 1, got {params.window_size}"
    if not 0 <= params.expand_size <= params.window_size:
        return f"expand_size must be between 0 and {params.window_size}, got {params.expand_size}"
    if params.focal_level < 1:
        return f"focal_level must be at least 1, got {params.focal_level}"
    if params.focal_window < 1 or params.focal_window % 2 == 0:
        return f"focal_window must be an odd number from 1 on, got {params.focal_window}"
    if params.pool_method not in ("fc", "conv", "mean", "max", "none"):
        return f"pool_method is one of fc, conv, mean, max, none, got {params.pool_method!r}"
    window, _ = fitted(grid, params.window_size, params.expand_size)
    levels = params.focal_level
    if params.pool_method != "none" and levels > 1 and not window >> levels - 2:
        parts = 2 ** (levels - 2)
        return f"{levels} levels cut a window into {parts} x {parts} parts, it is {window} wide"
    return None


ATTENTION = AttentionSpec(
    module=Focal,
    params=Params,
    family="window",
    paper=Paper(
        title="Focal Self-attention for Local-Global Interactions in Vision Transformers",
        arxiv="2107.00641",
        venue="NeurIPS 2021",
        code="https://github.com/microsoft/Focal-Transformer",
    ),
    equation="softmax(Q [K, K_around, K_pooled]^T / sqrt(d) + B) [V, V_around, V_pooled] by window",
    cost="(4 + 3/w^2)NC^2 + 2(w^2 + 4(w^2 - (w-e)^2) + f^2)NC",
    size_rule="pad",
    settings={
        4: {"window_size": 7, "expand_size": 3, "focal_level": 2, "focal_window": 7},
        8: {"window_size": 7, "expand_size": 3, "focal_level": 2, "focal_window": 5},
        16: {"window_size": 7, "expand_size": 3, "focal_level": 2, "focal_window": 3},
        32: {"window_size": 7, "expand_size": 3, "focal_level": 2, "focal_window": 1},
    },
    space={"window_size": (7, 14)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "keys around the window wrap round the map's edges, unmasked",
        "with window 7 and expansion 3 twelve of the 120 tokens around a window are keys twice",
        "pooled windows outside the map are masked; padding inside the map is not, and is pooled",
        "on a map no longer than the window nothing is expanded, and the tables are smaller",
        "the authors' configurations count the window itself: 2 levels are one pooled level",
        "single-layer benchmarks that cut the window inside forward change it for later calls",
    ),
)
