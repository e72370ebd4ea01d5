"""The softmax attention core: the equation, and the same function through a fused kernel."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Impl = Literal["eager", "fused"]

# The input and the output of every mechanism, channels last.
FeatureMap = Float[Tensor, "batch height width dim"]
# The queries, keys or values of each head.
Heads = Float[Tensor, "batch heads tokens head_dim"]

# Where values are wider than queries, on a CPU: up to here the equation is as fast as the kernel,
# and beyond it the scores of a head take more than 64 MB in fp32.
_MANY_SCORES = 2**24


def attend(
    q: Float[Tensor, "*batch heads queries head_dim"],
    k: Float[Tensor, "*batch heads keys head_dim"],
    v: Float[Tensor, "*batch heads keys value_dim"],
    *,
    impl: Impl,
    bias: Float[Tensor, "*#batch #heads queries keys"] | None = None,
    scale: float | None = None,
) -> Float[Tensor, "*batch heads queries value_dim"]:
    """softmax(q k^T scale + bias) v, arXiv 1706.03762, equation 1.

    `scale` is 1 / sqrt(head_dim) unless given. `bias` broadcasts over batch and heads. `batch` is
    images, or images and windows. Where each window has a bias of its own, the fused kernel copies
    no q, k or v whose channels lie in memory as (tokens, windows, heads, head_dim).
    """
    if scale is None:
        scale = q.shape[-1] ** -0.5
    # The kernel of a CPU needs queries and values of one width.
    narrower = v.shape[-1] - q.shape[-1] if q.is_cpu else 0
    if impl == "eager" or (narrower > 0 and q.shape[-2] * k.shape[-2] < _MANY_SCORES):
        scores = (q * scale) @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        return scores.softmax(dim=-1) @ v
    if narrower > 0:  # zeros change no score, and cost less than so many scores in memory
        q, k = F.pad(q, (0, narrower)), F.pad(k, (0, narrower))
    # The fused kernels take one batch dimension and repeat a bias along it without a copy. So
    # windows count as images, or, where each has a bias of its own, as heads. An expanded bias
    # would be copied on CUDA, which pads the rows of the bias that it gets to multiples of eight.
    batch, first = q.shape[:-2], 0
    if len(batch) > 2:
        if bias is not None and bias.dim() > 3:
            first = 1
            bias = bias.expand(*batch[1:], -1, -1).flatten(0, 1)
        q, k, v = (tensor.flatten(first, first + 1) for tensor in (q, k, v))
    if bias is not None and bias.dim() == 3:
        bias = bias[None]
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    return mixed.unflatten(first, batch[first : first + 2]) if len(batch) > 2 else mixed


def apart(layer: nn.Linear, parts: int) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of each of the layers that a joint one stands for, for F.linear.

    Their outputs are contiguous, where the parts of the joint output are strided.
    """
    biases = [None] * parts if layer.bias is None else layer.bias.chunk(parts)
    return list(zip(layer.weight.chunk(parts), biases, strict=True))


def pointwise(
    x: Float[Tensor, "*batch in_channels"], convolution: nn.Conv2d
) -> Float[Tensor, "*batch out_channels"]:
    """A 1 x 1 convolution of a channels-last map, or of tokens."""
    return projected(x, convolution.weight.flatten(1), convolution.bias)


def projected(
    x: Float[Tensor, "batch *positions in_channels"],
    weight: Float[Tensor, "out_channels in_channels"],
    bias: Float[Tensor, " out_channels"] | None = None,
) -> Float[Tensor, "batch *positions out_channels"]:
    """What the authors compute as a 1 x 1 convolution, of a channels-last map or of tokens.

    On a CPU torch computes that in oneDNN, and a product of matrices in MKL, which leaves AVX-512
    unused on AMD's CPUs: LKA at 8 x 14 x 14 x 384 took 4.8 ms and 9.6 ms. In a module that is
    exported it is a product, which ONNX Runtime computes faster (5.0 ms, and 7.0 as convolutions).
    """
    if not x.is_cpu or torch.compiler.is_exporting():
        return F.linear(x, weight, bias)
    image = x if x.ndim > 3 else x.unsqueeze(-2)
    out = F.conv2d(image.movedim(-1, 1), weight[:, :, None, None], bias)
    return out.movedim(1, -1).reshape(*x.shape[:-1], -1)


def split_heads(
    x: Float[Tensor, "*batch tokens channels"], num_heads: int
) -> Float[Tensor, "*batch heads tokens head_dim"]:
    """Channels to heads, as a view."""
    return x.unflatten(-1, (num_heads, -1)).transpose(-3, -2)


def merge_heads(
    x: Float[Tensor, "*batch heads tokens head_dim"],
) -> Float[Tensor, "*batch tokens channels"]:
    """The inverse of split_heads."""
    return x.transpose(-3, -2).flatten(-2)
