"""LKA: large kernel attention, a 21 x 21 convolution taken apart and used as a gate.

arXiv 2202.09741 (VAN). A depthwise convolution, a dilated depthwise convolution and a pointwise
convolution give a map that multiplies the features they were computed from; no softmax, no
queries and keys. Linear in tokens.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import Impl, pointwise
from attentions._groups import in_groups
from attentions._linear import through_convolutions
from attentions._spec import AttentionSpec, Grid, Paper


class SpatialGate(nn.Module):
    """x times its large kernel attention. Parameter names: conv0, conv_spatial, conv1."""

    def __init__(self, dim: int, *, local_kernel: int, dilated_kernel: int, dilation: int) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(dim, dim, local_kernel, padding=local_kernel // 2, groups=dim)
        self.conv_spatial = nn.Conv2d(
            dim,
            dim,
            dilated_kernel,
            padding=dilation * (dilated_kernel // 2),
            dilation=dilation,
            groups=dim,
        )
        self.conv1 = nn.Conv2d(dim, dim, 1)

    def forward(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        return x * self.conv1(self.conv_spatial(self.conv0(x)))


class LKA(nn.Module):
    """Large kernel attention, with all that the authors' Attention module holds.

    That is a pointwise convolution and GELU before the gate, a pointwise convolution after it,
    and the residual. Parameter names as there: proj_1, spatial_gating_unit, proj_2. The block's
    normalisation, layer scale and second residual are out. There are no heads: `num_heads` has no
    effect.

    local_kernel    side of the depthwise convolution
    dilated_kernel  side of the dilated depthwise convolution, in taps
    dilation        distance between its taps
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: Grid,
        *,
        local_kernel: int = 5,
        dilated_kernel: int = 7,
        dilation: int = 3,
        impl: Impl = "fused",
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.spatial_gating_unit = SpatialGate(
            dim, local_kernel=local_kernel, dilated_kernel=dilated_kernel, dilation=dilation
        )
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(
        self, x: Float[Tensor, "batch height width dim"]
    ) -> Float[Tensor, "batch height width dim"]:
        if self.impl == "fused":
            return in_groups(self._fused, x, 4 * x.shape[3])
        gated = self.spatial_gating_unit(F.gelu(self.proj_1(x.permute(0, 3, 1, 2))))
        return x + self.proj_2(gated).permute(0, 2, 3, 1)

    def _fused(
        self, x: Float[Tensor, "batch height width dim"]
    ) -> Float[Tensor, "batch height width dim"]:
        """Channels last; pointwise convolutions are matrix products."""
        gate = self.spatial_gating_unit
        u = F.gelu(pointwise(x, self.proj_1))
        local = gate.conv_spatial(gate.conv0(u.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        return x + pointwise(u * pointwise(local, gate.conv1), self.proj_2)


def macs(
    dim: int,
    num_heads: int,
    grid: Grid,
    *,
    local_kernel: int = 5,
    dilated_kernel: int = 7,
    dilation: int = 3,
) -> int:
    """3 N C^2 + N C (a^2 + b^2), a and b the sides of the two depthwise convolutions."""
    return grid.tokens * dim * (3 * dim + local_kernel**2 + dilated_kernel**2)


def unsupported(
    dim: int,
    num_heads: int,
    grid: Grid,
    *,
    local_kernel: int = 5,
    dilated_kernel: int = 7,
    dilation: int = 3,
) -> str | None:
    """Settings outside their range."""
    for name, side in (("local_kernel", local_kernel), ("dilated_kernel", dilated_kernel)):
        if side < 1 or side % 2 == 0:
            return f"{name} must be odd, so that a token is at its centre, got {side}"
    return None if dilation >= 1 else f"dilation must be at least 1, got {dilation}"


ATTENTION = AttentionSpec(
    module=LKA,
    paper=Paper(
        title="Visual Attention Network",
        arxiv="2202.09741",
        venue="CVMJ 2023",
        code="https://github.com/Visual-Attention-Network/VAN-Classification",
    ),
    equation="x + W2(u * Conv1x1(DWConv7x7,d3(DWConv5x5(u)))), u = GELU(W1 x)",
    cost="3NC^2 + 74NC",
    size_rule="any",
    settings={
        4: {"local_kernel": 5, "dilated_kernel": 7, "dilation": 3},
        8: {"local_kernel": 5, "dilated_kernel": 7, "dilation": 3},
        16: {"local_kernel": 5, "dilated_kernel": 7, "dilation": 3},
        32: {"local_kernel": 5, "dilated_kernel": 7, "dilation": 3},
    },
    impls=("eager", "fused"),
    finish=through_convolutions,
    kernels="matmul and depthwise convolution on channels-last maps",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the residual is inside: the authors' block adds a second one around it",
        "the paper calls it a 21 x 21 kernel; with the 5 x 5 before, a token sees 23 x 23",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
