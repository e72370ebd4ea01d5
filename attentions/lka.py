"""LKA: large kernel attention, a 21 x 21 convolution taken apart and used as a gate.

arXiv 2202.09741 (VAN). A depthwise convolution, a dilated depthwise convolution and a pointwise
convolution give a map that multiplies the features they were computed from; no softmax, no
queries and keys. Linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl, pointwise
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    local_kernel    side of the depthwise convolution
    dilated_kernel  side of the dilated depthwise convolution, in taps
    dilation        distance between its taps
    """

    local_kernel: int = 5
    dilated_kernel: int = 7
    dilation: int = 3


class LKA(nn.Module):
    """Large kernel attention, with all that the authors' Attention module holds.

    That is a pointwise convolution and GELU before the gate, a pointwise convolution after it,
    and the residual. Parameter names as there: proj_1, spatial_gating_unit, proj_2. The block's
    normalisation, layer scale and second residual are out. There are no heads: `num_heads` has no
    effect.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.proj_1 = nn.Conv2d(dim, dim, 1)
        self.spatial_gating_unit = SpatialGate(
            dim,
            local_kernel=params.local_kernel,
            dilated_kernel=params.dilated_kernel,
            dilation=params.dilation,
        )
        self.proj_2 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused":
            return self._fused(x)
        gated = self.spatial_gating_unit(F.gelu(self.proj_1(x.permute(0, 3, 1, 2))))
        return x + self.proj_2(gated).permute(0, 2, 3, 1)

    def _fused(self, x: FeatureMap) -> FeatureMap:
        """Channels last; pointwise convolutions are matrix products."""
        gate = self.spatial_gating_unit
        u = F.gelu(pointwise(x, self.proj_1))
        # Results are passed on without a name, so that their memory is free as soon as may be.
        u = u * dilated(
            gate.conv0(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), gate.conv_spatial, gate.conv1
        )
        return x + pointwise(u, self.proj_2)


def dilated(
    x: FeatureMap, convolution: nn.Conv2d, after: nn.Conv2d
) -> Float[Tensor, "batch height width out_dim"]:
    """A dilated depthwise convolution that keeps the size of a channels-last map, and a pointwise
    one after it.

    Tokens whose distance is no multiple of the dilation never meet. On a CPU the phases of the map
    are images of their own, convolved without dilation: oneDNN has no fast kernel with it, and
    takes 4 times as long in fp32 and 10 times in bf16 (28 x 28 x 384, 7 x 7 taps 3 apart).
    """
    apart = convolution.dilation[0]
    if not x.is_cpu or apart == 1:
        return pointwise(convolution(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), after)
    _, height, width, dim = x.shape
    if height % apart or width % apart:
        x = F.pad(x, (0, 0, 0, -width % apart, 0, -height % apart))
    x = x.unflatten(2, (-1, apart)).unflatten(1, (-1, apart))
    x = x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)
    side = convolution.kernel_size[0]
    x = F.conv2d(x, convolution.weight, convolution.bias, padding=side // 2, groups=dim)
    # Before the phases are put together: a slice of the whole would be copied for it.
    x = pointwise(x.permute(0, 2, 3, 1), after)
    x = x.unflatten(0, (-1, apart, apart)).permute(0, 3, 1, 4, 2, 5)
    return x.flatten(3, 4).flatten(1, 2)[:, :height, :width]


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """3 N C^2 + N C (a^2 + b^2), a and b the sides of the two depthwise convolutions."""
    return grid.tokens * dim * (3 * dim + params.local_kernel**2 + params.dilated_kernel**2)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """Settings outside their range."""
    for name, side in (
        ("local_kernel", params.local_kernel),
        ("dilated_kernel", params.dilated_kernel),
    ):
        if side < 1 or side % 2 == 0:
            return f"{name} must be odd, so that a token is at its centre, got {side}"
    return None if params.dilation >= 1 else f"dilation must be at least 1, got {params.dilation}"


ATTENTION = AttentionSpec(
    module=LKA,
    params=Params,
    family="convolution",
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
    space={"local_kernel": (3, 5, 7), "dilated_kernel": (5, 7)},
    impls=("eager", "fused"),
    kernels="matmul and depthwise convolution on channels-last maps",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the residual is inside: the authors' block adds a second one around it",
        "the paper calls it a 21 x 21 kernel; with the 5 x 5 before, a token sees 23 x 23",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
