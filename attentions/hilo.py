"""HiLo: high frequencies in local windows, low frequencies over a pooled map.

arXiv 2205.13213 (LITv2). The heads are split: Hi-Fi heads attend inside windows of s x s tokens,
Lo-Fi heads attend from every position to the s x s average-pooled map; the two outputs are
concatenated, with no mixing after.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, split_heads
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import merge, pad_to_multiple, partition


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    window_size  s, the side of Hi-Fi's windows and of Lo-Fi's pooling; 1 makes every head Lo-Fi,
                 which is MSA
    alpha        share of the heads that are Lo-Fi, rounded down to whole heads
    """

    window_size: int = 2
    alpha: float = 0.9
    qkv_bias: bool = True


class HiLo(nn.Module):
    """HiLo attention. Parameter names as in the authors' code: h_qkv, h_proj, l_q, l_kv, l_proj.

    head_groups  the channels of the output that each group of heads gives, in their order
    """

    same_window: Tensor | None

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.window_size = params.window_size
        self.impl: Impl = impl
        self.h_heads, self.l_heads = split_of(num_heads, params.window_size, params.alpha)
        head_dim = dim // num_heads
        h_dim, l_dim = self.h_heads * head_dim, self.l_heads * head_dim
        groups = {"Hi-Fi": h_dim, "Lo-Fi": l_dim}
        self.head_groups = {name: width for name, width in groups.items() if width}
        if h_dim:
            self.h_qkv = nn.Linear(dim, 3 * h_dim, bias=params.qkv_bias)
            self.h_proj = nn.Linear(h_dim, h_dim)
        if l_dim:
            self.l_q = nn.Linear(dim, l_dim, bias=params.qkv_bias)
            self.l_kv = nn.Linear(dim, 2 * l_dim, bias=params.qkv_bias)
            self.l_proj = nn.Linear(l_dim, l_dim)
        self.across = params.window_size
        if h_dim and impl == "fused":
            self.across = span(params.window_size, computed(grid, params).width)
        mask = None
        if self.across > params.window_size:
            mask = same_window(params.window_size, self.across, self.h_qkv.weight)
        self.register_buffer("same_window", mask, persistent=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.window_size, self.window_size)
        if not self.l_heads:
            out = self.hifi(x)
        elif not self.h_heads:
            out = self.lofi(x)
        else:
            out = torch.cat((self.hifi(x), self.lofi(x)), dim=-1)
        return out[:, :height, :width]

    def hifi(self, x: FeatureMap) -> Float[Tensor, "batch height width h_dim"]:
        """Self-attention inside each window; height and width are multiples of the window."""
        size, grid = self.window_size, Grid(x.shape[1], x.shape[2])
        across = size if self.impl == "eager" else span(size, grid.width)
        bias = self.same_window
        if across != self.across:  # a map of another width than the module was built for
            bias = same_window(size, across, x) if across > size else None
        windows = partition(self.h_qkv(x), size, across)
        q, k, v = (split_heads(part, self.h_heads) for part in windows.chunk(3, dim=-1))
        mixed = merge_heads(attend(q, k, v, impl=self.impl, bias=bias))
        return self.h_proj(merge(mixed, size, across, grid))

    def lofi(self, x: FeatureMap) -> Float[Tensor, "batch height width l_dim"]:
        """Attention from every position to the average of each window."""
        pooled = x
        if self.window_size > 1:
            pooled = F.avg_pool2d(x.permute(0, 3, 1, 2), self.window_size).permute(0, 2, 3, 1)
        q = split_heads(self.l_q(x).flatten(1, 2), self.l_heads)
        kv = self.l_kv(pooled.flatten(1, 2)).chunk(2, dim=-1)
        k, v = (split_heads(part, self.l_heads) for part in kv)
        mixed = merge_heads(attend(q, k, v, impl=self.impl))
        return self.l_proj(mixed.unflatten(1, x.shape[1:3]))


def split_of(num_heads: int, window_size: int, alpha: float) -> tuple[int, int]:
    """(Hi-Fi heads, Lo-Fi heads), rounded as in the authors' code."""
    low = num_heads if window_size == 1 else int(num_heads * alpha)
    return num_heads - low, low


# Windows of so many tokens are taken together, up to so many: with 128 Hi-Fi took 1.4 times as long
# for a token of a large map as of a small one.
_TINY, _TOGETHER = 16, 32


def span(size: int, width: int) -> int:
    """The columns that fused Hi-Fi attends over at a time, a multiple of `size` that divides
    `width`.

    A kernel call for a window of four tokens costs far more than its arithmetic. So tiny windows in
    a row are taken as one, and what is between them is masked: at 2 x 2 a row of 14 tokens costs
    seven times the products of its windows, which are 1% of the layer's.
    """
    if size * size > _TINY:
        return size
    fitting = [
        columns
        for columns in range(size, width + 1, size)
        if width % columns == 0 and size * columns <= _TOGETHER
    ]
    return max(fitting, default=size)


def same_window(size: int, across: int, like: Tensor) -> Float[Tensor, "1 tokens tokens"]:
    """0 between tokens of one window, -inf between those of two, in `size` x `across` tokens."""
    window = (torch.arange(across, device=like.device) // size).repeat(size)
    apart = window[:, None] != window[None, :]
    return like.new_zeros(apart.shape).masked_fill(apart, float("-inf"))[None]


def computed(grid: Grid, params: Params) -> Grid:
    """The grid padded to whole windows."""
    return grid.padded_to(params.window_size, params.window_size)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """Hi-Fi N C h (3 + h/C) + 2 s^2 N h, Lo-Fi N C l (1 + l/C + 2/s^2) + 2 N^2 l / s^2.

    h and l are the widths of the two groups, N the padded tokens.
    """
    tokens = computed(grid, params).tokens
    size = params.window_size
    high, low = (heads * (dim // num_heads) for heads in split_of(num_heads, size, params.alpha))
    pooled = tokens // size**2
    hifi = tokens * (3 * dim * high + high**2) + 2 * tokens * size**2 * high
    lofi = tokens * (dim * low + low**2) + pooled * 2 * dim * low + 2 * tokens * pooled * low
    return hifi + lofi


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.window_size < 1:
        return f"window_size must be at least 1, got {params.window_size}"
    if not 0 <= params.alpha <= 1:
        return f"alpha is a share of the heads, between 0 and 1, got {params.alpha}"
    return None


ATTENTION = AttentionSpec(
    module=HiLo,
    params=Params,
    family="reduced",
    paper=Paper(
        title="Fast Vision Transformers with HiLo Attention",
        arxiv="2205.13213",
        venue="NeurIPS 2022",
        code="https://github.com/ziplab/LITv2",
    ),
    equation="[attention inside s x s windows, attention to the s x s average-pooled map]",
    cost="Hi-Fi (3a + a^2)NC^2 + 2as^2NC, Lo-Fi (b + b^2 + 2b/s^2)NC^2 + 2bN^2C/s^2; a + b = 1",
    size_rule="pad",
    # The authors use no attention at strides 4 and 8.
    settings={16: {"window_size": 2, "alpha": 0.9}, 32: {"window_size": 1, "alpha": 0.9}},
    space=(
        {"window_size": (1,)},
        {
            "window_size": (2, 4, 7),
            "alpha": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        },
    ),
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention; tiny windows of a row together, masked",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "alpha is rounded down to whole heads: 0.9 of 12 heads is 10 Lo-Fi and 2 Hi-Fi",
        "window 1 makes every head Lo-Fi, whatever alpha says",
    ),
)
