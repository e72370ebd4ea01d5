"""Twins LSA: locally-grouped self-attention, inside non-overlapping windows.

arXiv 2104.13840 (Twins-SVT). Window attention without a position bias; the backbone alternates it
with Twins GSA, which joins the windows.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import Impl, attend, merge_heads, split_heads
from attentions._groups import in_groups
from attentions._linear import through_onednn
from attentions._spec import AttentionSpec, Grid, Paper
from attentions._windows import merge, pad_to_multiple, partition


class TwinsLSA(nn.Module):
    """Locally-grouped self-attention. Parameter names as in the authors' GroupAttention: qkv, proj.

    Maps that do not divide are padded with zeros on the right and at the bottom, unmasked, as in
    the authors' detection code (their classification code takes multiples of the window only).
    So a map smaller than the window is padded to it; `window` cuts its window instead. The
    authors' dropouts are left out, since they are zero in every published model.

    window_size  side of the windows in tokens
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: Grid,
        *,
        window_size: int = 7,
        qkv_bias: bool = True,
        impl: Impl = "fused",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.impl: Impl = impl
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, x: Float[Tensor, "batch height width dim"]
    ) -> Float[Tensor, "batch height width dim"]:
        if self.impl == "eager":
            return self._mix(x)
        return in_groups(self._mix, x, 5 * x.shape[3])

    def _mix(
        self, x: Float[Tensor, "batch height width dim"]
    ) -> Float[Tensor, "batch height width dim"]:
        height, width = x.shape[1:3]
        size = self.window_size
        x = pad_to_multiple(x, size, size)
        qkv = self.qkv(partition(x, size, size)).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.num_heads) for part in qkv)
        mixed = merge_heads(attend(q, k, v, impl=self.impl))
        x = merge(mixed, size, size, Grid(x.shape[1], x.shape[2]))
        return self.proj(x[:, :height, :width])


def computed(grid: Grid, *, window_size: int = 7, qkv_bias: bool = True) -> Grid:
    """The grid padded to whole windows."""
    return grid.padded_to(window_size, window_size)


def macs(
    dim: int, num_heads: int, grid: Grid, *, window_size: int = 7, qkv_bias: bool = True
) -> int:
    """3 P C^2 + N C^2 + 2 P w^2 C, N the tokens of the map, P with padding.

    Padding is cut off before the projection, as in the authors' code.
    """
    padded = computed(grid, window_size=window_size).tokens
    return (3 * padded + grid.tokens) * dim**2 + 2 * padded * window_size**2 * dim


def unsupported(
    dim: int, num_heads: int, grid: Grid, *, window_size: int = 7, qkv_bias: bool = True
) -> str | None:
    """Settings outside their range."""
    if window_size < 2:
        return f"window_size must be at least 2 (1 stands for GSA), got {window_size}"
    return None


ATTENTION = AttentionSpec(
    module=TwinsLSA,
    paper=Paper(
        title="Twins: Revisiting the Design of Spatial Attention in Vision Transformers",
        arxiv="2104.13840",
        venue="NeurIPS 2021",
        code="https://github.com/Meituan-AutoML/Twins",
    ),
    equation="softmax(Q K^T / sqrt(d)) V inside each w x w window",
    cost="4NC^2 + 2w^2NC",
    size_rule="pad",
    settings={
        4: {"window_size": 7},
        8: {"window_size": 7},
        16: {"window_size": 7},
        32: {"window_size": 7},
    },
    impls=("eager", "fused"),
    finish=through_onednn,
    kernels="scaled_dot_product_attention",
    macs=macs,
    computed=computed,
    unsupported=unsupported,
    traps=(
        "half of T-MSA: the backbone alternates it with twins_gsa, layer by layer",
        "padding is attended to: padded tokens carry the bias of qkv, as in the authors' code",
    ),
)
