"""Global context attention: windows whose queries come from a summary of the whole map.

arXiv 2206.09959 (GC ViT). Convolutions and pooling reduce the map to the size of one window; these
are the queries of every window, while keys and values are the window's own. The backbone
alternates it with window attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, pointwise, split_heads
from attentions._conv_norm import convolve
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import (
    merge,
    pad_to_multiple,
    partition,
    relative_position_index,
    window_on,
)

Image = Float[Tensor, "batch dim height width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    window_size  side of the windows in tokens
    levels       how often the map is halved on its way to the global queries; 0 leaves its size
    """

    window_size: int = 7
    levels: int = 1
    qkv_bias: bool = True


class Excitation(nn.Module):
    """A gate for each channel from the mean of the map: the authors' SE."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(dim, dim // 4, bias=False),
            nn.GELU(),
            nn.Linear(dim // 4, dim, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Image) -> Image:
        return x * self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))[..., None, None]


class FeatureExtraction(nn.Module):
    """A gated depthwise convolution around which there is a residual: the authors' FeatExtract."""

    def __init__(self, dim: int, *, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        self.conv = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False),
            nn.GELU(),
            Excitation(dim),
            nn.Conv2d(dim, dim, 1, bias=False),
        )

    def forward(self, x: Image) -> Image:
        return self._halved(x + self.conv(x))

    def _halved(self, x: Image) -> Image:
        return F.max_pool2d(x, 3, stride=2, padding=1) if self.halves else x

    def fused(self, x: FeatureMap) -> FeatureMap:
        """Of a channels-last map, which stays one."""
        around, _, gate, mixing = self.conv
        assert isinstance(around, nn.Conv2d)
        assert isinstance(gate, Excitation)
        assert isinstance(mixing, nn.Conv2d)
        hidden = F.gelu(convolve(x, around.weight, None, groups=x.shape[3]))
        hidden = hidden * gate.fc(hidden.mean((1, 2)))[:, None, None]
        out = x + pointwise(hidden, mixing)
        return self._halved(out.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class GlobalContext(nn.Module):
    """Window attention with global queries. Names as in the authors' WindowAttentionGlobal.

    They are qkv, proj, relative_position_bias_table and the buffer relative_position_index, whose
    prefix "attn." goes, and to_q_global of their stage, which makes the queries once for all of its
    blocks. A summary that is not as large as the window is resized by bicubic interpolation, and
    the map is padded, as in the authors' detection code. A side of the map that is shorter than
    the window cuts it.
    """

    relative_position_index: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        self.window = window_on(grid, params.window_size)
        self.to_q_global = nn.Sequential(
            *(
                FeatureExtraction(dim, halves=params.levels > 0)
                for _ in range(max(1, params.levels))
            )
        )
        self.qkv = nn.Linear(dim, 2 * dim, bias=params.qkv_bias)
        self.proj = nn.Linear(dim, dim)
        offsets = (2 * self.window[0] - 1) * (2 * self.window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", relative_position_index(*self.window))
        self._summary = summary_of(grid, params.levels)
        for name, resized in zip(("rows", "columns"), self._resizing(self._summary), strict=True):
            self.register_buffer(name, resized, persistent=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        height, width = x.shape[1:3]
        q = split_heads(self.global_queries(x), self.num_heads)
        x = pad_to_multiple(x, *self.window)
        parts = self.qkv(partition(x, *self.window)).chunk(2, dim=-1)
        k, v = (split_heads(part, self.num_heads) for part in parts)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        mixed = attend(q[:, None].expand_as(k), k, v, impl=self.impl, bias=bias.contiguous())
        out = self.proj(merge_heads(mixed))
        return merge(out, *self.window, Grid(x.shape[1], x.shape[2]))[:, :height, :width]

    def global_queries(self, x: FeatureMap) -> Float[Tensor, "batch window_tokens dim"]:
        """One for each position in a window."""
        if self.impl == "fused":
            for layer in self.to_q_global:
                assert isinstance(layer, FeatureExtraction)
                x = layer.fused(x)
            image = x.permute(0, 3, 1, 2)
        else:
            image = self.to_q_global(x.permute(0, 3, 1, 2))
        # With channels apart in memory, as after resizing, the kernel takes twice as long.
        return self._resized(image).flatten(2).mT.contiguous()

    def _resized(self, image: Image) -> Float[Tensor, "batch dim window_height window_width"]:
        """The summary as large as the window, by products along both sides."""
        summary = Grid(image.shape[2], image.shape[3])
        if (summary.height, summary.width) == self.window:
            return image
        rows, columns = self.rows, self.columns
        if summary != self._summary:  # of a map of another size than the module was built for
            rows, columns = (matrix.to(image) for matrix in self._resizing(summary))
        return ((image @ columns.mT).mT @ rows.mT).mT

    def _resizing(self, summary: Grid) -> tuple[Tensor, Tensor]:
        return cubic(summary.height, self.window[0]), cubic(summary.width, self.window[1])


def cubic(size: int, resized: int) -> Float[Tensor, "resized size"]:
    """What each position of a side gets of each position of another: bicubic interpolation.

    The matrix of F.interpolate, which computes positions in the dtype of the map: from 80 to 14 in
    fp32 they are off by thirty times its rounding. ExecuTorch has no such operator either.
    """
    position = (torch.arange(resized, dtype=torch.float64) + 0.5) * size / resized - 0.5
    first, matrix = position.floor(), torch.zeros(resized, size, dtype=torch.float64)
    for tap in (-1, 0, 1, 2):
        apart = (position - first - tap).abs()
        near = 1.25 * apart**3 - 2.25 * apart**2 + 1
        far = -0.75 * (apart**3 - 5 * apart**2 + 8 * apart - 4)
        index = (first + tap).clamp(0, size - 1).long()
        matrix.scatter_add_(1, index[:, None], near.where(apart <= 1, far)[:, None])
    return matrix.float()


def summary_of(grid: Grid, levels: int) -> Grid:
    """The map after so many halvings."""
    for _ in range(levels):
        grid = Grid(-(-grid.height // 2), -(-grid.width // 2))
    return grid


def computed(grid: Grid, params: Params) -> Grid:
    """The grid padded to whole windows."""
    return grid.padded_to(*window_on(grid, params.window_size))


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """3 P C^2 + 2 P w^2 C for P padded tokens, and M (C^2 + 10 C) + C^2 / 2 for each level.

    M are the tokens that the level begins with. fvcore counts one for each element that is
    averaged, and nothing for pooling. A summary of h x w that is resized: w C (h w + w^2) more.
    """
    tokens = computed(grid, params).tokens
    height, width = window_on(grid, params.window_size)
    total = 3 * tokens * dim**2 + 2 * tokens * height * width * dim
    for level in range(max(1, params.levels)):
        before = summary_of(grid, level).tokens
        total += before * (dim**2 + 10 * dim) + 2 * dim * (dim // 4)
    summary = summary_of(grid, params.levels)
    if (summary.height, summary.width) != (height, width):
        total += dim * summary.height * width * (summary.width + height)
    return total


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.window_size < 1:
        return f"window_size must be at least 1, got {params.window_size}"
    if params.levels < 0:
        return f"levels must be at least 0, got {params.levels}"
    return None if dim >= 4 else f"the gate has a quarter of the channels: dim {dim} is under 4"


ATTENTION = AttentionSpec(
    module=GlobalContext,
    params=Params,
    family="window",
    paper=Paper(
        title="Global Context Vision Transformers",
        arxiv="2206.09959",
        venue="ICML 2023",
        code="https://github.com/NVlabs/GCVit",
    ),
    equation="softmax(Q_g K^T / sqrt(d) + B) V inside each w x w window, Q_g = the map reduced to "
    "w x w by MaxPool(x + W SE(gelu(DWConv3x3(x))))",
    cost="3NC^2 + 2w^2NC + (4/3)NC^2 for the queries",
    size_rule="pad",
    settings={
        4: {"window_size": 7, "levels": 3},
        8: {"window_size": 7, "levels": 2},
        16: {"window_size": 14, "levels": 0},
        32: {"window_size": 7, "levels": 0},
    },
    space={"window_size": (7, 14)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention; convolutions on channels-last maps",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "the queries are made once for a stage and shared by its blocks; here they are a part of "
        "each layer, and of its cost",
        "queries are not projected, and are the same whichever window asks",
        "the authors' classifier reads a channels-last map as channels-first for the queries, and "
        "with more than one image gives windows the queries of another image; here, as in timm and "
        "in their detection code, each token has its own channels",
        "at strides 16 and 32 of a 224 x 224 image the window is the map: the queries alone differ "
        "from MSA",
        "published weights are for non-commercial use",
    ),
)
