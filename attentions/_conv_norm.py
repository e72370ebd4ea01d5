"""A convolution and the batch norm after it, which are one convolution in eval mode."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap


class ConvNorm(nn.Module):
    """A convolution without bias, and a batch norm. Names as in LeViT's Conv2d_BN: c, bn."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, groups: int = 1
    ) -> None:
        super().__init__()
        self.c = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(
        self, x: Float[Tensor, "batch in_channels height width"]
    ) -> Float[Tensor, "batch out_channels height width"]:
        return self.bn(self.c(x))

    def fused(self, x: FeatureMap) -> Float[Tensor, "batch height width out_channels"]:
        """The same of a channels-last map: in eval mode one convolution.

        Also of 1 x 1, which on windows of 7 x 7 takes oneDNN half of the time of a matrix product.
        """
        if self.training:  # the norm needs the statistics of the whole batch
            return self(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        weight, bias = folded(self.c, self.bn)
        return convolve(x, weight, bias, groups=self.c.groups)


def folded(
    convolution: nn.Conv2d, norm: nn.BatchNorm2d
) -> tuple[Float[Tensor, "out_channels in_channels height width"], Float[Tensor, " out_channels"]]:
    """Weight and bias of a convolution without bias with its batch norm, in eval mode."""
    scale, shift = scale_and_shift(norm)
    return convolution.weight * scale[:, None, None, None], shift


def scale_and_shift(
    norm: nn.BatchNorm2d,
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
    """What a batch norm multiplies each channel by and then adds, in eval mode."""
    assert norm.running_var is not None
    assert norm.running_mean is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def convolve(
    x: FeatureMap,
    weight: Float[Tensor, "out_channels in_channels height width"],
    bias: Tensor | None,
    *,
    groups: int,
) -> Float[Tensor, "batch height width out_channels"]:
    """A convolution of a channels-last map that keeps its size; the kernel is square and odd."""
    image = x.permute(0, 3, 1, 2)
    out = F.conv2d(image, weight, bias, padding=weight.shape[-1] // 2, groups=groups)
    return out.permute(0, 2, 3, 1)
