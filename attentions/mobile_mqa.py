"""Mobile MQA: one head of keys and values for all heads of queries, from a map that is reduced.

arXiv 2404.10518 (MobileNetV4), after multi-query attention (arXiv 1911.02150). Keys and values
are shared by all heads, and a strided depthwise convolution makes fewer of them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, attend, merge_heads, pointwise, split_heads
from attentions._conv_norm import folded
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    key_dim         width of the queries of a head, and of the keys, whatever dim
    value_dim       width of the values, and of a head's output
    kv_stride       tokens from one key to the next; 1 reduces nothing, and has neither down_conv
                    nor norm
    dw_kernel_size  side of the depthwise convolution that reduces, odd
    """

    key_dim: int = 64
    value_dim: int = 64
    kv_stride: int = 2
    dw_kernel_size: int = 3


class MobileMQA(nn.Module):
    """Mobile multi-query attention. Names as in timm's MultiQueryAttention2d.

    They are query.proj, key.down_conv, key.norm, key.proj, the same of value, and output.proj; the
    authors' own code is for TensorFlow. Out: a stride of the queries, which no published model
    has, and the block's norm, layer scale and residual.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        self.query = projection(dim, num_heads * params.key_dim)
        self.key = reduced_projection(dim, params.key_dim, params)
        self.value = reduced_projection(dim, params.value_dim, params)
        self.output = projection(num_heads * params.value_dim, dim)

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused":
            return self._fused(x)
        image = x.permute(0, 3, 1, 2)
        q, k, v = (
            layer(image).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        # One head of keys and values, with which every head of queries is multiplied.
        mixed = attend(split_heads(q, self.num_heads), k[:, None], v[:, None], impl=self.impl)
        mixed = merge_heads(mixed).transpose(1, 2).unflatten(2, x.shape[1:3])
        return self.output(mixed).permute(0, 2, 3, 1)

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """The heads of a token are queries beside each other: nothing is transposed or repeated."""
        q = pointwise(x, last(self.query)).flatten(1, 2)
        q = q.unflatten(-1, (self.num_heads, -1)).flatten(1, 2)
        k, v = (self._reduced(x, layer) for layer in (self.key, self.value))
        mixed = attend(q[:, None], k[:, None], v[:, None], impl=self.impl).squeeze(1)
        return pointwise(mixed.view(*x.shape[:3], -1), last(self.output))

    def _reduced(
        self, x: FeatureMap, layers: nn.Sequential
    ) -> Float[Tensor, "batch keys channels"]:
        """Keys or values; in eval mode the norm is in the weights of the convolution before it."""
        if len(layers) > 1:
            image, (conv, norm, _) = x.permute(0, 3, 1, 2), layers
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            if self.training:
                image = norm(conv(image))
            else:
                weight, bias = folded(conv, norm)
                image = F.conv2d(image, weight, bias, conv.stride, conv.padding, groups=conv.groups)
            x = image.permute(0, 2, 3, 1)
        return pointwise(x, last(layers)).flatten(1, 2)


def projection(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 1 x 1 convolution under the name that timm gives it."""
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    return nn.Sequential(OrderedDict(proj=conv))


def reduced_projection(dim: int, out_channels: int, params: Params) -> nn.Sequential:
    """A strided depthwise convolution and a batch norm where there is a stride, and a projection
    after them."""
    layers = projection(dim, out_channels)
    if params.kv_stride == 1:
        return layers
    side = params.dw_kernel_size
    # As much as centres a kernel of the stride on its token, in timm's rule.
    padding = (params.kv_stride + side - 2) // 2
    conv = nn.Conv2d(dim, dim, side, params.kv_stride, padding, groups=dim, bias=False)
    named = OrderedDict(down_conv=conv, norm=nn.BatchNorm2d(dim), proj=last(layers))
    return nn.Sequential(named)


def last(layers: nn.Sequential) -> nn.Conv2d:
    """The projection."""
    layer = layers[-1]
    assert isinstance(layer, nn.Conv2d)
    return layer


def keys_on(grid: Grid, params: Params) -> int:
    """How many keys a map has."""
    if params.kv_stride == 1:
        return grid.tokens
    stride, side = params.kv_stride, params.dw_kernel_size
    padding = (stride + side - 2) // 2
    rows, columns = (
        (size + 2 * padding - side) // stride + 1 for size in (grid.height, grid.width)
    )
    return rows * columns


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """N C h (k + v) + M C (k + v) + N M h (k + v), and 2 M C (K^2 + 2) for the reduction.

    k and v are the widths of keys and values, M the number of keys, K the side of the kernel.
    """
    keys, widths = keys_on(grid, params), params.key_dim + params.value_dim
    total = (grid.tokens * num_heads + keys) * dim * widths
    total += grid.tokens * keys * num_heads * widths
    if params.kv_stride > 1:
        total += 2 * keys * dim * (params.dw_kernel_size**2 + 2)
    return total


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    for name in ("key_dim", "value_dim", "kv_stride"):
        if getattr(params, name) < 1:
            return f"{name} must be at least 1, got {getattr(params, name)}"
    side = params.dw_kernel_size
    if side < 1 or side % 2 == 0:
        return f"dw_kernel_size must be odd, so that a token is at its centre, got {side}"
    return None


ATTENTION = AttentionSpec(
    module=MobileMQA,
    params=Params,
    family="reduced",
    paper=Paper(
        title="MobileNetV4: Universal Models for the Mobile Ecosystem",
        arxiv="2404.10518",
        venue="ECCV 2024",
        code="https://github.com/tensorflow/models/blob/master/official/vision/modeling/layers/"
        "nn_blocks.py",
    ),
    equation="softmax(Q_h K'^T / sqrt(k)) V' for each head h, K' and V' of one head from "
    "BN(DWConv3x3(x)) with stride R",
    cost="2hkNC + 2kNC/R^2 + 2hkN^2/R^2, h heads of width k",
    size_rule="any",
    # Those of Hybrid Medium; the authors use no attention at strides 4 and 8.
    settings={
        16: {"key_dim": 64, "value_dim": 64, "kv_stride": 2},
        32: {"key_dim": 64, "value_dim": 64, "kv_stride": 1},
    },
    space={"key_dim": (32, 64), "kv_stride": (1, 2)},
    impls=("eager", "fused"),
    kernels="scaled_dot_product_attention, the heads of a token as queries of one head",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "heads are 64 wide whatever dim and their number: the authors have 4 at dim 160 and 256, "
        "and with more heads queries and output are wider than the map",
        "keys and values are reduced by a convolution each, not by a common one",
        "the reduction pads its map with zeros on all sides; the authors' TensorFlow code pads "
        "even sizes on the right and at the bottom only",
        "batch norms: measured in eval mode, with their running statistics",
    ),
)
