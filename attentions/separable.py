"""Separable attention: one score a token, one context vector for the map, which gates the values.

arXiv 2206.02680 (MobileViTv2), separable self-attention, the authors' LinearSelfAttention. Softmax
over the scores weighs the keys into a context vector, which multiplies ReLU of the values element
by element. As in the authors' block, tokens at the same place of their patch form a set with a
context of its own. Linear in tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, pointwise, projected
from attentions._spec import AttentionSpec, Grid, Paper

NEVER = -1e4  # a score whose exponential is zero in every dtype, and that every dtype holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    patch_size  P, the side of the patches: tokens P apart along both sides share a context; 1 gives
                one context for the whole map
    """

    patch_size: int = 2


class Separable(nn.Module):
    """Separable self-attention. Names as in ml-cvnets: qkv_proj.block.conv, out_proj.block.conv.

    In: the authors' LinearSelfAttention, and the unfolding into patches and the folding that their
    block does around it. Out: the block's convolutions, norms and MLP, and its resizing of a map
    that the patches do not divide; here each set then has the tokens that it has. There are no
    heads: `num_heads` has no effect.
    """

    apart: Tensor

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.dim = dim
        self.patch_size = params.patch_size
        self.qkv_proj = conv_layer(dim, 1 + 2 * dim)
        self.out_proj = conv_layer(dim, dim)
        self._grid = grid
        apart = apart_on(grid, params.patch_size, convolution(self.qkv_proj).weight)
        self.register_buffer("apart", apart, persistent=False)

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused":
            return self._fused(x)
        qkv = self.qkv_proj(x.permute(0, 3, 1, 2))
        scores, key, value = qkv.split((1, self.dim, self.dim), dim=1)
        weights = unfolded(scores, self.patch_size, fill=NEVER).softmax(dim=-1)
        context = (unfolded(key, self.patch_size, fill=0.0) * weights).sum(dim=-1)
        out = self.out_proj(value.relu() * self._spread(context, value))
        return out.permute(0, 2, 3, 1)

    def _spread(
        self, context: Float[Tensor, "batch dim places"], like: Float[Tensor, "batch dim _ _"]
    ) -> Float[Tensor, "batch dim height width"]:
        """The context of each token's set, at the token."""
        side, (height, width) = self.patch_size, like.shape[2:]
        tile = context.unflatten(2, (side, side))
        return tile.repeat(1, 1, -(-height // side), -(-width // side))[:, :, :height, :width]

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """The keys are never made: the weights sum to 1, so that what is projected is the weighted
        sum of the tokens.
        """
        projection, out = convolution(self.qkv_proj), convolution(self.out_proj)
        weight, bias = projection.weight.flatten(1), projection.bias
        assert bias is not None
        tokens, side = x.flatten(1, 2), self.patch_size
        grid = Grid(x.shape[1], x.shape[2])
        scores = F.linear(tokens, weight[:1], bias[:1]).transpose(1, 2)
        if side > 1:
            scores = scores + (self.apart if grid == self._grid else apart_on(grid, side, x))
        pooled = scores.softmax(dim=-1) @ tokens
        context = F.linear(pooled, weight[1 : 1 + self.dim], bias[1 : 1 + self.dim])
        value = projected(x, weight[1 + self.dim :], bias[1 + self.dim :]).relu()
        if grid.height % side or grid.width % side:
            gate = self._spread(context.transpose(1, 2), x.permute(0, 3, 1, 2))
            return pointwise(value * gate.permute(0, 2, 3, 1), out)
        cut = value.unflatten(2, (-1, side)).unflatten(1, (-1, side))
        gate = context.unflatten(1, (side, side))[:, None, :, None]
        gated = cut * gate if torch.is_grad_enabled() else cut.mul_(gate)
        return pointwise(gated.view(x.shape), out)


def conv_layer(in_channels: int, out_channels: int) -> nn.Sequential:
    """A 1 x 1 convolution under the names that ml-cvnets gives it."""
    conv: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv2d(in_channels, out_channels, 1))
    return nn.Sequential(OrderedDict(block=nn.Sequential(conv)))


def convolution(layer: nn.Sequential) -> nn.Conv2d:
    """The convolution of a `conv_layer`."""
    (block,) = layer
    assert isinstance(block, nn.Sequential)
    (conv,) = block
    assert isinstance(conv, nn.Conv2d)
    return conv


def unfolded(
    x: Float[Tensor, "batch channels height width"], side: int, *, fill: float
) -> Float[Tensor, "batch channels places patches"]:
    """The map as patches of side x side, which lie beside each other; `fill` completes the last."""
    x = F.pad(x, (0, -x.shape[3] % side, 0, -x.shape[2] % side), value=fill)
    cut = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return cut.permute(0, 1, 3, 5, 2, 4).flatten(4, 5).flatten(2, 3)


def apart_on(grid: Grid, side: int, like: Tensor) -> Float[Tensor, "places tokens"]:
    """0 where a token lies at that place of its patch, else a score that never counts."""
    rows = torch.arange(grid.height, device=like.device) % side
    columns = torch.arange(grid.width, device=like.device) % side
    place = (rows[:, None] * side + columns).flatten()
    others = torch.arange(side**2, device=like.device)[:, None] != place
    return like.new_zeros(others.shape).masked_fill(others, NEVER)


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """3 N C^2 + N C. The weighted sum of the keys, N C, is no product of matrices."""
    return grid.tokens * (3 * dim**2 + dim)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    size = params.patch_size
    return None if size >= 1 else f"patch_size must be at least 1, got {size}"


ATTENTION = AttentionSpec(
    module=Separable,
    params=Params,
    family="linear",
    paper=Paper(
        title="Separable Self-attention for Mobile Vision Transformers",
        arxiv="2206.02680",
        venue="TMLR 2023",
        code="https://github.com/apple/ml-cvnets",
    ),
    equation="W(relu(V) * c), c = sum of softmax(x w)_i K_i over the tokens at the same place of "
    "their patch",
    cost="3NC^2",
    size_rule="any",
    # The authors use no attention at stride 4.
    settings={8: {"patch_size": 2}, 16: {"patch_size": 2}, 32: {"patch_size": 2}},
    space={"patch_size": (1, 2, 7)},
    impls=("eager", "fused"),
    kernels="matmul on channels-last maps; keys are summed before they are projected",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "with patches of 2 x 2 there are four contexts, one for each place in a patch: neighbours "
        "never meet, which the convolution before it mends in the authors' block",
        "the authors resize a map that the patches do not divide, 7 x 7 to 8 x 8; here it is not "
        "resized",
        "the count holds the keys, N C^2, which fused does not compute: it projects their sum",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
