"""Linear layers through the convolution's kernel, which on a CPU is the faster matrix product."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._groups import is_grouped

# Tokens from which on the convolution is the faster one: it packs the weights anew for each call.
# At 196 tokens a linear layer takes 0.8 to 1 of its time, in bf16 0.7 to 0.9; from 784 in fp32 and
# 1568 in bf16 it takes longer, whatever the channels.
MANY_TOKENS = 1024


def linear(
    x: Float[Tensor, "*batch in_channels"],
    weight: Float[Tensor, "out_channels in_channels"],
    bias: Float[Tensor, " out_channels"] | None = None,
) -> Float[Tensor, "*batch out_channels"]:
    """x W^T + b. On a CPU, for many tokens in fp32 and bf16, as a 1 x 1 convolution of a
    channels-last map.

    torch gives a linear layer to the BLAS library, and before it copies the bias to the whole
    output; a convolution goes to oneDNN, which adds the bias as it writes. On an AMD EPYC that
    takes 0.74 of the time in fp32 (3136 tokens, 384 to 1152 channels) and 0.87 in bf16.
    """
    known = x.dtype in (torch.float32, torch.bfloat16)  # fp16 is emulated, fp64 not there
    many = x.numel() >= MANY_TOKENS * x.shape[-1]
    if not (known and many and is_grouped(x) and torch.backends.mkldnn.is_available()):
        return F.linear(x, weight, bias)
    tokens = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    made = F.conv2d(tokens, weight[:, :, None, None], bias)
    return made.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


class ThroughConvolution(nn.Linear):
    """A linear layer, by `linear`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name that torch gives it
        return linear(input, self.weight, self.bias)


def through_convolutions(module: nn.Module) -> nn.Module:
    """The module, each of its linear layers by `linear`; parameters and their names stay."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = ThroughConvolution
    return module
