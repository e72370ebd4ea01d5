"""Windows: pad, partition, merge, relative position bias, and the window attention of Swin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, apart, attend, merge_heads, split_heads
from attentions._spec import Grid


def pad_to_multiple(
    x: FeatureMap, height: int, width: int
) -> Float[Tensor, "batch padded_height padded_width dim"]:
    """Pads a map with zeros on the right and at the bottom to multiples of the window."""
    bottom, right = -x.shape[1] % height, -x.shape[2] % width
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


def partition(x: FeatureMap, height: int, width: int) -> Float[Tensor, "batch windows tokens dim"]:
    """Cuts a map into windows of height x width, row-major; sizes must divide the map's."""
    rows, columns = x.shape[1] // height, x.shape[2] // width
    cut = x.unflatten(1, (rows, height)).unflatten(3, (columns, width)).transpose(2, 3)
    return cut.flatten(3, 4).flatten(1, 2)


def tokens_first(
    x: FeatureMap, height: int, width: int
) -> Float[Tensor, "batch tokens windows dim"]:
    """`partition` with the tokens before the windows, in memory too."""
    rows, columns = x.shape[1] // height, x.shape[2] // width
    cut = x.unflatten(1, (rows, height)).unflatten(3, (columns, width)).permute(0, 2, 4, 1, 3, 5)
    return cut.flatten(3, 4).flatten(1, 2)


def gather(
    tokens: Float[Tensor, "batch all_tokens channels"], index: Int[Tensor, "rows columns"]
) -> Float[Tensor, "batch rows columns channels"]:
    """The tokens at these positions."""
    return tokens.index_select(1, index.flatten()).unflatten(1, index.shape)


def merge(
    windows: Float[Tensor, "batch windows tokens dim"], height: int, width: int, grid: Grid
) -> FeatureMap:
    """The inverse of `partition` for a map of `grid`, a multiple of the window."""
    rows, columns = grid.height // height, grid.width // width
    cut = windows.unflatten(1, (rows, columns)).unflatten(3, (height, width))
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def relative_position_index(height: int, width: int) -> Int[Tensor, "tokens tokens"]:
    """Row of the bias table for every pair of tokens of a window.

    The table has (2 height - 1) (2 width - 1) rows, one for each offset (arXiv 2103.14030,
    equation 4); this is the authors' numbering, so their tables load.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    down = rows[:, None] - rows[None, :] + height - 1
    right = columns[:, None] - columns[None, :] + width - 1
    return down * (2 * width - 1) + right


def shift_mask(
    grid: Grid, window: tuple[int, int], shift: tuple[int, int]
) -> Float[Tensor, "windows tokens tokens"]:
    """-100 between tokens that the cyclic shift brought together from opposite edges, else 0.

    -100 and not -inf, as in the authors' code: softmax then gives e^-100 of the weight, which is
    zero in every dtype that we measure.
    """
    rows = _regions(grid.height, window[0], shift[0])
    columns = _regions(grid.width, window[1], shift[1])
    region = (3 * rows[:, None] + columns[None, :])[None, :, :, None]
    labels = partition(region, *window)[0, :, :, 0]
    differ = labels[:, :, None] != labels[:, None, :]
    return torch.zeros(differ.shape).masked_fill(differ, -100.0)


def _regions(size: int, window: int, shift: int) -> Int[Tensor, " size"]:
    positions = torch.arange(size)
    if shift == 0:
        return torch.zeros_like(positions)
    return (positions >= size - window).long() + (positions >= size - shift).long()


def window_on(grid: Grid, window_size: int) -> tuple[int, int]:
    """The window on this map: cut to the map along each side that is shorter than it."""
    return min(window_size, grid.height), min(window_size, grid.width)


class WindowAttention(nn.Module):
    """The projections qkv and proj, and the attention inside windows between them."""

    def __init__(
        self, dim: int, num_heads: int, window: tuple[int, int], *, qkv_bias: bool, impl: Impl
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.impl: Impl = impl
        self.window = window
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def inside_windows(
        self,
        x: FeatureMap,
        bias: Float[Tensor, "*windows heads tokens tokens"] | None = None,
    ) -> FeatureMap:
        """Attention inside the windows of a map that they divide, not yet projected."""
        grid = Grid(x.shape[1], x.shape[2])
        if self.impl == "eager" or bias is None or bias.dim() == 3:
            parts = self.qkv(partition(x, *self.window)).chunk(3, -1)
        else:
            tokens = tokens_first(x, *self.window)
            parts = [F.linear(tokens, *part).transpose(1, 2) for part in apart(self.qkv, 3)]
        q, k, v = (split_heads(part, self.num_heads) for part in parts)
        mixed = merge_heads(attend(q, k, v, impl=self.impl, bias=bias))
        return merge(mixed, *self.window, grid)


@dataclass(frozen=True, kw_only=True)
class SwinParams:
    """Hyper-parameters of W-MSA.

    window_size             side of the windows in tokens
    relative_position_bias  adds a learned bias for each offset inside the window
    """

    window_size: int = 7
    relative_position_bias: bool = True
    qkv_bias: bool = True


class SwinAttention(WindowAttention):
    """Window attention with a relative position bias, optionally cyclically shifted (arXiv
    2103.14030).

    Parameters carry the names of the authors' WindowAttention: qkv, proj,
    relative_position_bias_table, and the buffer relative_position_index, which a state dict need
    not hold. Padding is not masked, as in the authors' dense prediction code.

    window  height and width of the windows; params.window_size, cut to the map, unless given
    shift   tokens that they are moved by, down and to the right
    """

    relative_position_index: Tensor
    shift_mask: Tensor | None

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: Grid,
        params: SwinParams,
        impl: Impl = "fused",
        *,
        window: tuple[int, int] | None = None,
        shift: tuple[int, int] = (0, 0),
    ) -> None:
        window = window or window_on(grid, params.window_size)
        super().__init__(dim, num_heads, window, qkv_bias=params.qkv_bias, impl=impl)
        self.shift = shift
        self.has_bias = params.relative_position_bias
        if self.has_bias:
            offsets = (2 * window[0] - 1) * (2 * window[1] - 1)
            self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, num_heads))
            nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
            self.register_buffer("relative_position_index", relative_position_index(*window))
            self.register_load_state_dict_pre_hook(_keep_index)  # type: ignore[no-untyped-call] # torch's
        self._mask_grid = grid.padded_to(*window)
        mask = shift_mask(self._mask_grid, window, self.shift) if any(self.shift) else None
        self.register_buffer("shift_mask", mask, persistent=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, *self.window)
        bias = self._bias(Grid(x.shape[1], x.shape[2]))
        if any(self.shift):
            x = torch.roll(x, (-self.shift[0], -self.shift[1]), dims=(1, 2))
        x = self.proj(self.inside_windows(x, bias))
        if any(self.shift):
            x = torch.roll(x, self.shift, dims=(1, 2))
        return x[:, :height, :width]

    def _bias(self, padded: Grid) -> Float[Tensor, "*windows heads tokens tokens"] | None:
        bias = None
        if self.has_bias:
            table = self.relative_position_bias_table[self.relative_position_index]
            bias = table.permute(2, 0, 1).contiguous()
        if any(self.shift):
            mask = self.shift_mask
            if mask is None or padded != self._mask_grid:
                mask = shift_mask(padded, self.window, self.shift).to(self.qkv.weight)
            mask = mask[:, None]
            bias = mask if bias is None else bias + mask
        return bias


def _keep_index(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """Fills in what follows from the window: timm saves Swin without it."""
    index = module.get_buffer("relative_position_index")
    state_dict.setdefault(f"{prefix}relative_position_index", index)


def swin_computed(grid: Grid, params: SwinParams) -> Grid:
    """The grid padded to whole windows."""
    return grid.padded_to(*window_on(grid, params.window_size))


def swin_macs(dim: int, num_heads: int, grid: Grid, params: SwinParams) -> int:
    """Those of `window_macs`."""
    return window_macs(dim, grid, window_on(grid, params.window_size))


def window_macs(dim: int, grid: Grid, window: tuple[int, int]) -> int:
    """4 N C^2 + 2 N w^2 C, N the padded tokens: a shift moves no arithmetic."""
    height, width = window
    tokens = grid.padded_to(height, width).tokens
    return 4 * tokens * dim**2 + 2 * tokens * height * width * dim


def swin_unsupported(dim: int, num_heads: int, grid: Grid, params: SwinParams) -> str | None:
    """Settings outside their range."""
    size = params.window_size
    return None if size >= 1 else f"window_size must be at least 1, got {size}"
