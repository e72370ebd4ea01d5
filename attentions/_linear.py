"""Linear layers through oneDNN, whose matrix product is the faster one on a CPU."""

from __future__ import annotations

import functools
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._groups import is_grouped
from attentions._halves import is_emulated, widened

# oneDNN has two ways. A convolution packs the weights anew for each call, and is the faster one
# where that does not count: by up to 17% where there are so many tokens, and twice as many as input
# channels; with fewer it takes up to 1.7 times as long as the plain product. With AVX2 the BLAS
# library is up to 13% faster than the plain product, and the convolution faster than both, by up to
# 14%, from twice as many tokens. To so many output channels it is oneDNN's from the beginning: 196
# to 784 tokens of 768 channels to 3072 take the plain product 0.63 to 0.82 of the library's time.
MANY_TOKENS = 1024
MANY_OUTPUTS = 1024
# From 2560 input channels on the convolution falls, at some numbers of tokens, to a third of the
# plain product's speed (3136 tokens of 3072 channels to 768: 3.5 times its time).
MOST_INPUTS = 2048

Kernel = Literal["blas", "plain", "convolution"]


@functools.cache
def instructions() -> str:
    """What torch's kernels use on this CPU: AVX512, AVX2, another name on another architecture."""
    return torch.backends.cpu.get_cpu_capability()


def linear(
    x: Float[Tensor, "*batch in_channels"],
    weight: Float[Tensor, "out_channels in_channels"],
    bias: Float[Tensor, " out_channels"] | None = None,
) -> Float[Tensor, "*batch out_channels"]:
    """x W^T + b. On an x86 CPU in fp32 and bf16 by oneDNN, for many tokens as a 1 x 1 convolution
    of a channels-last map.

    torch gives a linear layer to the BLAS library, and before it copies the bias to the whole
    output; oneDNN adds the bias as it writes. On an AMD EPYC with AVX-512 that takes 0.80 to 0.98
    of the time in fp32 (49 to 25088 tokens, 96 to 1536 channels) and 0.82 to 1.00 in bf16, on one
    with AVX2 0.86 to 0.97 (8192 tokens).
    """
    known = x.dtype in (torch.float32, torch.bfloat16)  # fp64 is not there
    usual = not (known and is_grouped(x) and torch.backends.mkldnn.is_available())
    if usual or is_emulated(x.dtype):
        return F.linear(x, weight, bias)
    channels = x.shape[-1]
    kernel = faster(x.numel() // max(1, channels), channels, weight.shape[0])
    if kernel == "blas":
        return F.linear(x, weight, bias)
    if kernel == "plain":
        # The operator that torch's own compiler makes of a linear layer.
        tokens = x.reshape(-1, channels)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(tokens, weight, bias, "none", [], "")
        return product.view(*x.shape[:-1], weight.shape[0])
    tokens = x.reshape(1, -1, 1, channels).permute(0, 3, 1, 2)
    made = F.conv2d(tokens, weight[:, :, None, None], bias)
    return made.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


def faster(tokens: int, in_channels: int, out_channels: int) -> Kernel:
    """Whose product is the faster one on this CPU, as measured; the BLAS library's where nothing
    was."""
    many = in_channels <= MOST_INPUTS
    if instructions() == "AVX512":
        many = many and tokens >= max(MANY_TOKENS, 2 * in_channels)
        return "convolution" if many else "plain"
    if instructions() != "AVX2":
        return "blas"
    wide = out_channels >= MANY_OUTPUTS
    if tokens < (MANY_TOKENS if wide else 2 * MANY_TOKENS):
        return "plain" if wide else "blas"
    return "convolution" if many else "plain"


class OneDNNLinear(nn.Linear):
    """A linear layer, by `linear`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gives it
        return linear(input, self.weight, self.bias)


def through_onednn(module: nn.Module, *, same_shape: bool = True) -> nn.Module:
    """The module, each of its linear layers by `linear`, and all of it in fp32 where the CPU would
    emulate the input's dtype; parameters and their names stay.

    same_shape  the module's output has the shape of its input
    """
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = OneDNNLinear
    return widened(module, same_shape=same_shape)
