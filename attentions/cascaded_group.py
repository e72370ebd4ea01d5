"""Cascaded group attention: each head attends on channels of its own, and feeds the next head.

arXiv 2305.07027 (EfficientViT of Microsoft). The channels are split between the heads, so that no
two see the same; the output of a head is added to the input of the next. A depthwise convolution
gives the queries their surroundings. Inside windows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend
from attentions._conv_norm import ConvNorm
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import merge, pad_to_multiple, partition, window_on


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    window_size  side of the windows in tokens
    key_dim      width of a head's queries and keys
    kernel_size  side of the first head's depthwise convolution of queries, odd
    kernel_step  by how much it is smaller in each head after it, even, down to 3
    """

    window_size: int = 7
    key_dim: int = 16
    kernel_size: int = 7
    kernel_step: int = 2


class CascadedGroup(nn.Module):
    """Cascaded group attention. Names as in the authors' CascadedGroupAttention.

    They are qkvs, dws, proj, attention_biases and the buffer attention_bias_idxs; the prefix
    "attn." of their LocalWindowAttention, which makes the windows, goes. Values are dim / num_heads
    wide, as in all their models. A side of the map that is shorter than the window cuts it.
    """

    attention_bias_idxs: Tensor

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        self.window = window_on(grid, params.window_size)
        self.key_dim = key_dim = params.key_dim
        width = dim // num_heads
        self.qkvs = nn.ModuleList(ConvNorm(width, 2 * key_dim + width) for _ in range(num_heads))
        self.dws = nn.ModuleList(
            ConvNorm(key_dim, key_dim, side, groups=key_dim)
            for side in kernels_of(num_heads, params)
        )
        self.proj = nn.Sequential(nn.ReLU(), ConvNorm(dim, dim))
        offsets = self.window[0] * self.window[1]
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, offsets))
        self.register_buffer("attention_bias_idxs", distance_index(*self.window))

    def forward(self, x: FeatureMap) -> FeatureMap:
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, *self.window)
        padded = Grid(x.shape[1], x.shape[2])
        images = partition(x, *self.window).flatten(0, 1).unflatten(1, self.window)
        joined = self.cascade(images.permute(0, 3, 1, 2))
        if self.impl == "eager":
            windows = self.proj(joined).permute(0, 2, 3, 1)
        else:
            projection = self.proj[1]
            assert isinstance(projection, ConvNorm)
            joined = F.relu(joined, inplace=not torch.is_grad_enabled())
            windows = projection.fused(joined.permute(0, 2, 3, 1))
        out = windows.flatten(1, 2).unflatten(0, (len(x), -1))
        return merge(out, *self.window, padded)[:, :height, :width]

    def cascade(
        self, windows: Float[Tensor, "windows dim height width"]
    ) -> Float[Tensor, "windows dim height width"]:
        """The outputs of all heads, one after the other.

        Their batch norms are not folded here: at a head's width that takes as long as the norm.
        """
        biases = self.attention_biases[:, self.attention_bias_idxs]
        groups = windows.chunk(self.num_heads, dim=1)
        outputs: list[Tensor] = []
        for head, (qkv, dw) in enumerate(zip(self.qkvs, self.dws, strict=True)):
            group = groups[head] + outputs[-1] if outputs else groups[head]
            parts = (self.key_dim, self.key_dim, group.shape[1])
            q, k, v = qkv(group).split(parts, dim=1)
            q, k, v = (part.flatten(2).mT for part in (dw(q), k, v))
            mixed = self._attend(q, k, v, biases[head])
            outputs.append(mixed.mT.unflatten(2, self.window))
        return torch.cat(outputs, dim=1)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Float[Tensor, "tokens tokens"]
    ) -> Float[Tensor, "windows tokens width"]:
        q, k, v = (part[:, None] for part in (q, k, v))
        return attend(q, k, v, impl=self.impl, bias=bias[None]).squeeze(1)


def kernels_of(num_heads: int, params: Params) -> list[int]:
    """The side of each head's convolution of queries."""
    first, step = params.kernel_size, params.kernel_step
    return [min(first, max(3, first - step * head)) for head in range(num_heads)]


def distance_index(height: int, width: int) -> Int[Tensor, "tokens tokens"]:
    """Which bias a pair of tokens has: one for each pair of absolute distances, row-major."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    return (rows[:, None] - rows).abs() * width + (columns[:, None] - columns).abs()


def computed(grid: Grid, params: Params) -> Grid:
    """The grid padded to whole windows."""
    return grid.padded_to(*window_on(grid, params.window_size))


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """Of the heads N (d (2k + d) + k S^2 + T (k + d)), then N C^2, and 2 for each normed element.

    d = C / heads, k the width of keys, T the tokens of a window, S a head's kernel, N padded.
    """
    height, width = window_on(grid, params.window_size)
    key_dim, value_dim = params.key_dim, dim // num_heads
    joint = 2 * key_dim + value_dim
    per_token = dim**2 + 2 * dim
    for side in kernels_of(num_heads, params):
        per_token += joint * (value_dim + 2) + key_dim * (side**2 + 2)
        per_token += height * width * (key_dim + value_dim)
    return computed(grid, params).tokens * per_token


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    for name in ("window_size", "key_dim"):
        if getattr(params, name) < 1:
            return f"{name} must be at least 1, got {getattr(params, name)}"
    side, step = params.kernel_size, params.kernel_step
    if side < 1 or side % 2 == 0:
        return f"kernel_size must be odd, so that a token is at its centre, got {side}"
    if step < 0 or step % 2:
        return f"kernel_step must be even and not negative, got {step}"
    return None


ATTENTION = AttentionSpec(
    module=CascadedGroup,
    params=Params,
    family="window",
    paper=Paper(
        title="EfficientViT: Memory Efficient Vision Transformer with Cascaded Group Attention",
        arxiv="2305.07027",
        venue="CVPR 2023",
        code="https://github.com/microsoft/Cream/tree/main/EfficientViT",
    ),
    equation="y_h = softmax(Q K^T / sqrt(k) + B) V of x_h + y_{h-1}, x_h the channels of head h; "
    "W relu([y_1, ..., y_n])",
    cost="(1 + 1/h)NC^2 + 2kNC + w^2 NC(1 + kh/C), h heads, k the width of keys",
    size_rule="pad",
    # Those of M4 and M5, whose stages are at strides 16, 32 and 64.
    settings={
        16: {"window_size": 7, "key_dim": 16, "kernel_size": 7, "kernel_step": 2},
        32: {"window_size": 7, "key_dim": 16, "kernel_size": 7, "kernel_step": 2},
    },
    space={"window_size": (7, 14), "key_dim": (8, 16, 32)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention head by head, one product for the projection",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "heads run one after the other: more of them are slower, not more parallel",
        "the authors have 3 or 4 heads; M0 and M3 have kernels of 5 in all (kernel_step 0)",
        "biases are one for each pair of absolute distances, so that left and right are alike",
        "padding is attended to: padded tokens carry the shift of the batch norms",
        "the convolution of queries ends at the border of the window",
        "batch norms: measured in eval mode, with their running statistics",
    ),
)
