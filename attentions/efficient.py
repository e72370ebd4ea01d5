"""Efficient attention: keys and values meet first, so that no token by token map is formed.

arXiv 1812.01243. Softmax over tokens turns each key channel into a weighted average of the
values (the global context), softmax over channels turns each query into a mixture of those.
Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, merge_heads, pointwise, split_heads
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    key_channels    width of queries and keys, over all heads; dim unless given
    value_channels  width of the values, over all heads; dim unless given
    """

    key_channels: int | None = None
    value_channels: int | None = None


class Efficient(nn.Module):
    """Efficient attention, with all that the authors' EfficientAttention holds.

    That includes the residual. Parameter names as there: keys, queries, values, reprojection.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.num_heads = num_heads
        key_width, value_width = widths_of(dim, params.key_channels, params.value_channels)
        self.keys = nn.Conv2d(dim, key_width, 1)
        self.queries = nn.Conv2d(dim, key_width, 1)
        self.values = nn.Conv2d(dim, value_width, 1)
        self.reprojection = nn.Conv2d(value_width, dim, 1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused":
            return self._fused(x)
        image = x.permute(0, 3, 1, 2)
        key = self._heads(self.keys(image)).softmax(dim=-1)
        query = self._heads(self.queries(image)).softmax(dim=-2)
        value = self._heads(self.values(image))
        context = value @ key.transpose(-2, -1)
        mixed = (context @ query).flatten(1, 2).unflatten(-1, x.shape[1:3])
        return self.reprojection(mixed).permute(0, 2, 3, 1) + x

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """Channels last throughout: no map is transposed."""
        tokens = x.flatten(1, 2)
        key = pointwise(tokens, self.keys).softmax(dim=1)
        query = pointwise(tokens, self.queries).unflatten(-1, (self.num_heads, -1)).softmax(dim=-1)
        value = pointwise(tokens, self.values)
        k, v = split_heads(key, self.num_heads), split_heads(value, self.num_heads)
        mixed = merge_heads(query.transpose(1, 2) @ (k.transpose(-2, -1) @ v))
        return pointwise(mixed, self.reprojection).view(x.shape) + x

    def _heads(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch heads head_channels tokens"]:
        return image.flatten(2).unflatten(1, (self.num_heads, -1))


def widths_of(dim: int, key_channels: int | None, value_channels: int | None) -> tuple[int, int]:
    """(width of queries and keys, width of the values)."""
    return (
        dim if key_channels is None else key_channels,
        dim if value_channels is None else value_channels,
    )


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """2 N C (K + V) + 2 N K V / heads, K and V the widths of keys and values."""
    key_width, value_width = widths_of(dim, params.key_channels, params.value_channels)
    projections = 2 * dim * (key_width + value_width)
    return grid.tokens * (projections + 2 * key_width * value_width // num_heads)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Widths that the heads cannot share equally."""
    key_width, value_width = widths_of(dim, params.key_channels, params.value_channels)
    for name, width in (("key_channels", key_width), ("value_channels", value_width)):
        if width < 1 or width % num_heads:
            return f"{name} must be a multiple of num_heads, got {width} and {num_heads}"
    return None


ATTENTION = AttentionSpec(
    module=Efficient,
    params=Params,
    family="linear",
    paper=Paper(
        title="Efficient Attention: Attention with Linear Complexities",
        arxiv="1812.01243",
        venue="WACV 2021",
        code="https://github.com/cmsflash/efficient-attention",
    ),
    equation="x + W(softmax_channels(Q) (softmax_tokens(K)^T V))",
    cost="4NC^2 + 2NCd, d = C / heads",
    size_rule="any",
    settings={4: {}, 8: {}, 16: {}, 32: {}},
    impls=("eager", "fused"),
    kernels="matmul on channels-last maps",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "softmax runs over tokens for keys, over the channels of a head for queries",
        "the residual is inside: do not add it again",
        "key weights are 1 / N in size: beyond 16,000 tokens fp16 holds them as subnormal numbers",
    ),
)
