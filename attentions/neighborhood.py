"""Neighborhood attention: every token attends to the K x K tokens around it.

arXiv 2204.07143 (NAT). A window that slides with the query, as a convolution's does; at an edge it
stops at the edge, so every query has K x K keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, apart, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import gather, merge, pad_to_multiple, partition, tokens_first

# Queries along each side that share one block of keys in the fused implementation. Of 1, 4, 7, 8
# and 14 it was the fastest, or near it, on a CPU from 14 x 14 to 56 x 56, 6 to 14 times as fast as
# 1; and it divides the maps of a 224 x 224 image.
TILE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    kernel_size             K, side of the neighborhood in tokens, odd
    relative_position_bias  adds rpb, a learned bias for each offset inside the neighborhood
    """

    kernel_size: int = 7
    relative_position_bias: bool = True
    qkv_bias: bool = True


class Neighborhood(nn.Module):
    """Neighborhood attention. Parameter names as in the authors' NeighborhoodAttention2D: qkv,
    rpb, proj, as it was published with the paper (releases of NATTEN before 0.20; its later
    modules have no rpb).

    Left out of theirs: dilation, which is another paper's, dropouts, which are zero in every
    published model, and padding of maps smaller than the kernel, which are refused here.

    Queries are taken in tiles of T x T, whose neighborhoods lie in one block of keys of
    (T + K - 1) x (T + K - 1). The equations are those of T = 1: every query gathers its own K x K
    keys. A larger tile gathers each key fewer times and works on matrices instead of vectors, at
    the price of scores that are masked.
    """

    keys: Tensor
    offsets: Tensor

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kernel_size = params.kernel_size
        self.impl: Impl = impl
        self.tile = 1 if impl == "eager" else TILE
        self.qkv = nn.Linear(dim, 3 * dim, bias=params.qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.rpb: nn.Parameter | None = None
        if params.relative_position_bias:
            table = torch.empty(num_heads, 2 * params.kernel_size - 1, 2 * params.kernel_size - 1)
            self.rpb = nn.Parameter(nn.init.trunc_normal_(table, std=0.02))
        self._grid = grid
        keys, offsets = tiles_on(grid, params.kernel_size, self.tile)
        self.register_buffer("keys", keys, persistent=False)
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        grid, tile = Grid(x.shape[1], x.shape[2]), self.tile
        keys, offsets = self.keys, self.offsets
        if grid != self._grid:
            keys, offsets = tiles_on(grid, self.kernel_size, tile, x.device)
        bias = self._bias(offsets, like=x)
        q, k, v = (split_heads(part, self.num_heads) for part in self._project(x, keys))
        mixed = merge_heads(attend(q, k, v, impl=self.impl, bias=bias))
        merged = merge(mixed, tile, tile, grid.padded_to(tile, tile))
        return self.proj(merged[:, : grid.height, : grid.width])

    def _project(
        self, x: FeatureMap, keys: Int[Tensor, "keys tiles"]
    ) -> list[Float[Tensor, "batch tiles _ dim"]]:
        """Queries, keys and values of each tile."""
        if self.impl == "eager":
            q, kv = self.qkv(x).split((x.shape[3], 2 * x.shape[3]), dim=-1)
            return [partition(q, 1, 1), *kv.flatten(1, 2)[:, keys.T].chunk(2, dim=-1)]
        of_q, *of_kv = apart(self.qkv, 3)
        q = pad_to_multiple(F.linear(x, *of_q), self.tile, self.tile)
        q = tokens_first(q, self.tile, self.tile)
        kv = (gather(F.linear(x, *part).flatten(1, 2), keys) for part in of_kv)
        return [part.transpose(1, 2) for part in (q, *kv)]

    def _bias(
        self, offsets: Int[Tensor, "tiles queries keys"], *, like: Tensor
    ) -> Float[Tensor, "*tiles #heads queries keys"] | None:
        """rpb where a key is in the query's neighborhood, -inf where it is not."""
        if self.rpb is None and self.tile == 1:
            return None
        size = 2 * self.kernel_size - 1
        table = like.new_zeros(1, size, size) if self.rpb is None else self.rpb
        table = F.pad(table, (0, 1, 0, 1), value=float("-inf")).flatten(1)
        return table[:, offsets].transpose(0, 1).contiguous()


def tiles_on(
    grid: Grid, kernel_size: int, tile: int, device: torch.device | None = None
) -> tuple[
    Int[Tensor, "keys tiles"],
    Int[Tensor, "tiles queries keys"],
]:
    """The positions of each tile's keys, and their offsets from its queries, as places in the
    table of biases that has one more row and column for what is outside."""
    rows, down = blocks(grid.height, kernel_size, tile, device)
    columns, right = blocks(grid.width, kernel_size, tile, device)
    keys = rows.T[:, None, :, None] * grid.width + columns.T[None, :, None, :]
    offsets = down[:, None, :, None, :, None] * (2 * kernel_size) + right[:, None, :, None, :]
    return (
        keys.flatten(0, 1).flatten(1).contiguous(),
        offsets.flatten(4, 5).flatten(2, 3).flatten(0, 1),
    )


def blocks(
    length: int, kernel_size: int, tile: int, device: torch.device | None
) -> tuple[Int[Tensor, "tiles block"], Int[Tensor, "tiles tile block"]]:
    """For each tile of queries along a side: positions of its keys, and their offsets.

    An offset is key - query + kernel_size - 1, the place of the pair in the table of biases; it is
    2 kernel_size - 1, one past the table, where the key is outside the query's neighborhood.
    """
    first = torch.arange(0, length, tile, device=device)
    block = min(tile + kernel_size - 1, length)
    start = (first - kernel_size // 2).clamp(0, length - block)
    keys = start[:, None] + torch.arange(block, device=device)
    # Queries that only fill the last tile are answered as the last query is.
    queries = (first[:, None] + torch.arange(tile, device=device)).clamp(max=length - 1)
    nearest = (queries - kernel_size // 2).clamp(0, length - kernel_size)[:, :, None]
    inside = (keys[:, None, :] >= nearest) & (keys[:, None, :] < nearest + kernel_size)
    offsets = keys[:, None, :] - queries[:, :, None] + kernel_size - 1
    return keys, offsets.where(inside, 2 * kernel_size - 1)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """4 N C^2 + 2 N K^2 C."""
    return 4 * grid.tokens * dim**2 + 2 * grid.tokens * params.kernel_size**2 * dim


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """An even kernel has no centre; a kernel larger than the map has too few keys."""
    side = params.kernel_size
    if side < 3 or side % 2 == 0:
        return f"kernel_size must be odd and at least 3, got {side}"
    if min(grid.height, grid.width) < side:
        return f"a {grid} map is smaller than the neighborhood of {side} x {side}"
    return None


ATTENTION = AttentionSpec(
    module=Neighborhood,
    params=Params,
    family="window",
    paper=Paper(
        title="Neighborhood Attention Transformer",
        arxiv="2204.07143",
        venue="CVPR 2023",
        code="https://github.com/SHI-Labs/NATTEN",
    ),
    equation="softmax(Q K^T / sqrt(d) + B) V over the K x K keys nearest to each query",
    cost="4NC^2 + 2K^2NC",
    size_rule="any",
    settings={
        4: {"kernel_size": 7},
        8: {"kernel_size": 7},
        16: {"kernel_size": 7},
        32: {"kernel_size": 7},
    },
    space={"kernel_size": (3, 5, 7, 9, 11, 13)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention over tiles of 7 x 7 queries",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the neighborhood stops at the edge and keeps K x K keys, where a convolution sees padding",
        "near an edge the query is not in the middle: offsets reach K - 1, hence (2K - 1)^2 biases",
        "a map smaller than K is refused; the authors' module pads it, and attends to the padding",
        "the fused implementation computes more than the count says: (T + K - 1)^2 keys a query",
    ),
)
