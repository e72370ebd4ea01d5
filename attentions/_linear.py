"""What linear attention without softmax shares: the product of keys and values comes first."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attentions._attend import FeatureMap, Heads
from attentions._conv_norm import convolve

EPS = 1e-6  # beside the sum of a query's weights, and under its features, as in the authors' code


def feature_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which powers of queries and keys, and their sums, are computed: fp16 does not hold them.

    The authors compute them in fp32 as well: there autocast does.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def mix(
    q: Float[Tensor, "batch heads tokens features"],
    k: Float[Tensor, "batch heads tokens features"],
    v: Float[Tensor, "batch heads tokens value_dim"],
) -> Float[Tensor, "batch heads tokens value_dim"]:
    """q (k^T v) / N, N tokens. Both factors of k^T v are scaled, so that fp16 holds the product."""
    half = k.shape[-2] ** -0.5
    return q @ ((k.mT * half) @ (v * half))


def mean_weight(
    q: Float[Tensor, "batch heads tokens features"],
    k: Float[Tensor, "batch heads tokens features"],
) -> Float[Tensor, "batch heads tokens 1"]:
    """q k^T 1 / N + EPS, by which what is mixed is divided."""
    return q @ k.mean(dim=-2, keepdim=True).mT + EPS


def convolve_heads(v: Heads, convolution: nn.Conv2d, height: int, width: int) -> FeatureMap:
    """A depthwise convolution that all heads share, head by head as an image of its own."""
    batch, heads, _, head_dim = v.shape
    images = v.reshape(-1, height, width, head_dim).permute(0, 3, 1, 2)
    out = convolution(images).unflatten(0, (batch, heads))
    return out.permute(0, 3, 4, 1, 2).flatten(-2)


def convolve_all(v: FeatureMap, convolution: nn.Conv2d, num_heads: int) -> FeatureMap:
    """The same of the channels of all heads at once."""
    assert convolution.bias is not None
    weight = convolution.weight.repeat(num_heads, 1, 1, 1)
    return convolve(v, weight, convolution.bias.repeat(num_heads), groups=v.shape[3])
