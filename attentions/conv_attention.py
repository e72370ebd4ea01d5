"""Convolutional attention of CPUBone: attention at half the resolution and half the width.

arXiv 2603.26425 (CPUBone), after LowFormer. A strided depthwise convolution reduces the map before
queries, keys and values are projected, to half the channels; the output is projected and repeated
back to the map's size. Made for devices with few parallel units.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, pointwise
from attentions._conv_norm import folded
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import pad_to_multiple


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    att_stride    R, by how much attention reduces the map along each side: 1 or 2
    head_dim_mul  width of queries, keys and values as a share of the map's
    """

    att_stride: int = 2
    head_dim_mul: float = 0.5


class ConvAttention(nn.Module):
    """CPUBone's attention. Names as in the authors' ConvAttention: conv_proj, pwise, upsampling.

    In the form of all their published models: kernels of 2 x 2, no projection apart from that in
    upsampling, which repeats tokens. The norm before it, the residual and the MLP are out.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.stride = stride = params.att_stride
        self.num_heads = num_heads
        width = num_heads * head_dim_of(dim, num_heads, params)
        conv: nn.Module = nn.Conv2d(dim, dim, 2, stride, groups=dim, bias=False)
        if stride == 1:
            conv = nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), conv)
        self.conv_proj = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(dim)))
        self.pwise = nn.Sequential(nn.Conv2d(dim, 3 * width, 1, bias=False))
        repeat = nn.Upsample(scale_factor=stride) if stride > 1 else nn.Identity()
        self.upsampling = nn.Sequential(nn.Conv2d(width, dim, 1), repeat)

    def forward(self, x: FeatureMap) -> FeatureMap:
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.stride, self.stride)
        out = self._fused(x) if self.impl == "fused" else self._equations(x)
        return out[:, :height, :width]

    def _equations(self, x: FeatureMap) -> FeatureMap:
        qkv = self.pwise(self.conv_proj(x.permute(0, 3, 1, 2)))
        heads = qkv.flatten(2).unflatten(1, (self.num_heads, -1)).mT
        mixed = attend(*heads.chunk(3, dim=-1), impl=self.impl)
        image = mixed.mT.flatten(1, 2).unflatten(2, qkv.shape[2:])
        return self.upsampling(image).permute(0, 2, 3, 1)

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """Channels last; in eval mode the norm is in the weights of the convolution."""
        projection, out = self.pwise[0], self.upsampling[0]
        assert isinstance(projection, nn.Conv2d)
        assert isinstance(out, nn.Conv2d)
        reduced = self._reduced(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        heads = pointwise(reduced, projection).flatten(1, 2).unflatten(-1, (self.num_heads, -1))
        mixed = attend(*heads.transpose(1, 2).chunk(3, dim=-1), impl=self.impl)
        small = pointwise(merge_heads(mixed).unflatten(1, reduced.shape[1:3]), out)
        if self.stride == 1:
            return small
        spread = small[:, :, None, :, None].expand(-1, -1, self.stride, -1, self.stride, -1)
        return spread.reshape(x.shape)

    def _reduced(self, image: Tensor) -> Tensor:
        if self.training:
            return self.conv_proj(image)
        conv, norm = self.conv_proj
        if isinstance(conv, nn.Sequential):
            conv, image = conv[1], F.pad(image, (1, 0, 1, 0))
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        weight, bias = folded(conv, norm)
        return F.conv2d(image, weight, bias, self.stride, groups=conv.groups)


def head_dim_of(dim: int, num_heads: int, params: Params) -> int:
    """The width of a head."""
    return int(dim // num_heads * params.head_dim_mul)


def computed(grid: Grid, params: Params) -> Grid:
    """The grid padded to the stride."""
    return grid.padded_to(params.att_stride, params.att_stride)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """M (4 D C + 2 M D + 6 C) and, where it is repeated, N C. M = N / R^2, D the width inside.

    N are the padded tokens. fvcore counts one for each element that is repeated.
    """
    tokens = computed(grid, params).tokens
    reduced = tokens // params.att_stride**2
    width = num_heads * head_dim_of(dim, num_heads, params)
    repeated = tokens * dim if params.att_stride > 1 else 0
    return reduced * (4 * width * dim + 2 * reduced * width + 6 * dim) + repeated


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    if params.att_stride not in (1, 2):
        return f"att_stride is 1 or 2, the side of the kernel, got {params.att_stride}"
    if head_dim_of(dim, num_heads, params) < 1:
        return (
            f"head_dim_mul must leave a head at least 1 of its {dim // num_heads} channels, got "
            f"{params.head_dim_mul}"
        )
    return None


ATTENTION = AttentionSpec(
    module=ConvAttention,
    params=Params,
    family="reduced",
    paper=Paper(
        title="CPUBone: Efficient Vision Backbone Design for Devices with Low Parallelization "
        "Capabilities",
        arxiv="2603.26425",
        venue="CVPR 2026",
        code="https://github.com/altair199797/CPUBone",
    ),
    equation="repeat_RxR(W softmax(Q K^T / sqrt(d)) V), Q, K, V = Conv1x1(BN(DWConv2x2(x))) with "
    "stride R, of half the width",
    cost="(2NC^2 + N^2C/R^2)/R^2, R = 2 at stride 16",
    size_rule="pad",
    # The authors use no attention at strides 4 and 8.
    settings={
        16: {"att_stride": 2, "head_dim_mul": 0.5},
        32: {"att_stride": 1, "head_dim_mul": 0.5},
    },
    space={"att_stride": (1, 2), "head_dim_mul": (0.5, 1.0)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention on a reduced channels-last map",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "at stride 2 the four tokens of a square get the same output: what tells them apart is the "
        "residual around it",
        "the authors choose as many heads as are about 30 channels wide; here it is num_heads",
        "at stride 1 the kernel of 2 x 2 sees a token, the one above, the one on the left and the "
        "one between",
        "the authors' code floors an odd side, whose last row then gets nothing; padding on the "
        "right and at the bottom is timm's",
        "batch norm: measured in eval mode, with its running statistics",
    ),
)
