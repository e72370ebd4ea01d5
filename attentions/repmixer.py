"""RepMixer: a token mixer of batch norms and depthwise convolutions that is one convolution.

arXiv 2303.14189 (FastViT). In training it has a branch for each scale; in eval mode all of it,
the residual included, is a single depthwise convolution. No attention. Linear in tokens.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Impl
from attentions._conv_norm import convolve, folded, scale_and_shift
from attentions._spec import AttentionSpec, Grid, Paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """Hyper-parameters.

    kernel_size  side of the depthwise convolution, odd
    """

    kernel_size: int = 3


class Skip(nn.Module):
    """A batch norm, under the name that it has in the authors' MobileOneBlock."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rbr_skip = nn.BatchNorm2d(dim)

    def forward(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        return self.rbr_skip(x)


class Branches(Skip):
    """A batch norm, a depthwise convolution and one of 1 x 1, each normalised, added up."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__(dim)
        self.rbr_conv = nn.ModuleList([depthwise(dim, kernel_size)])
        self.rbr_scale = depthwise(dim, 1)

    def forward(
        self, x: Float[Tensor, "batch dim height width"]
    ) -> Float[Tensor, "batch dim height width"]:
        return self.rbr_skip(x) + self.rbr_scale(x) + self.rbr_conv[0](x)


class RepMixer(nn.Module):
    """RepMixer, residual inside. Names as in the authors' RepMixer: norm, mixer, layer_scale.

    There are no heads: `num_heads` has no effect.
    """

    def __init__(
        self, dim: int, num_heads: int, grid: Grid, params: Params, impl: Impl = "fused"
    ) -> None:
        super().__init__()
        self.impl: Impl = impl
        self.norm = Skip(dim)
        self.mixer = Branches(dim, params.kernel_size)
        self.layer_scale = nn.Parameter(torch.full((dim, 1, 1), 1e-5))

    def forward(self, x: FeatureMap) -> FeatureMap:
        if self.impl == "fused" and not self.training:
            return convolve(x, *self.reparameterized(), groups=x.shape[3])
        image = x.permute(0, 3, 1, 2)
        mixed = image + self.layer_scale * (self.mixer(image) - self.norm(image))
        return mixed.permute(0, 2, 3, 1)

    def reparameterized(
        self,
    ) -> tuple[Float[Tensor, "dim 1 side side"], Float[Tensor, " dim"]]:
        """Weight and bias of the one convolution, in eval mode."""
        large, shift = folded(*parts(self.mixer.rbr_conv[0]))
        small, shift_of_small = folded(*parts(self.mixer.rbr_scale))
        skip, shift_of_skip = scale_and_shift(self.mixer.rbr_skip)
        norm, shift_of_norm = scale_and_shift(self.norm.rbr_skip)
        scale = self.layer_scale.flatten()
        # What happens at the token itself is the middle tap.
        middle = 1 + scale * (small.flatten() + skip - norm)
        margin = large.shape[-1] // 2
        at_token = F.pad(middle[:, None, None, None], (margin,) * 4)
        bias = scale * (shift + shift_of_small + shift_of_skip - shift_of_norm)
        return torch.addcmul(at_token, self.layer_scale[..., None], large), bias


def depthwise(dim: int, kernel_size: int) -> nn.Sequential:
    """A depthwise convolution and its batch norm, under the authors' names."""
    conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(dim)))


def parts(branch: nn.Module) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """The convolution and the batch norm of a branch."""
    assert isinstance(branch, nn.Sequential)
    conv, norm = branch
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return conv, norm


def macs(dim: int, num_heads: int, grid: Grid, params: Params) -> int:
    """N C (K^2 + 9): two convolutions, and four batch norms of 2 N C."""
    return grid.tokens * dim * (params.kernel_size**2 + 9)


def unsupported(dim: int, num_heads: int, grid: Grid, params: Params) -> str | None:
    """A neighbourhood without a centre."""
    side = params.kernel_size
    if side < 1 or side % 2 == 0:
        return f"kernel_size must be odd, so that a token is at its centre, got {side}"
    return None


ATTENTION = AttentionSpec(
    module=RepMixer,
    params=Params,
    family="convolution",
    paper=Paper(
        title="FastViT: A Fast Hybrid Vision Transformer using Structural Reparameterization",
        arxiv="2303.14189",
        venue="ICCV 2023",
        code="https://github.com/apple/ml-fastvit",
    ),
    equation="x + s * (BN(x) + BN(DWConv1x1(x)) + BN(DWConv3x3(x)) - BN'(x)), in eval mode one "
    "DWConv3x3",
    cost="(K^2 + 9)NC; K^2 NC in one convolution",
    size_rule="any",
    # In the authors' S, SA and MA models the last stage has attention in place of it.
    settings={4: {"kernel_size": 3}, 8: {"kernel_size": 3}, 16: {"kernel_size": 3}},
    space={"kernel_size": (3, 5, 7)},
    impls=("eager", "fused"),
    kernels="one depthwise convolution on a channels-last map",
    macs=macs,
    unsupported=unsupported,
    traps=(
        "the residual is inside: do not add it again",
        "the count is that of the branches; fused is reparameterised, and computes K^2 NC of it",
        "few MACs are not little time: it reads and writes the whole map",
        "the branches exist in training only, where the fused implementation runs them too",
        "heads have no meaning here: num_heads changes nothing",
    ),
)
