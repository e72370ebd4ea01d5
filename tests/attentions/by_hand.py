"""Parts of layers as loops: references that share nothing with the code they are compared with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v of one query (dim) over its keys (n, dim), head by head.

    The bias is (n, num_heads); the result (dim of v).
    """
    parts = (q.chunk(num_heads), k.chunk(num_heads, dim=-1), v.chunk(num_heads, dim=-1))
    mixed = []
    for head, (query, keys, values) in enumerate(zip(*parts, strict=True)):
        scores = keys @ query / len(query) ** 0.5
        if bias is not None:
            scores = scores + bias[:, head]
        mixed.append(scores.softmax(0) @ values)
    return torch.cat(mixed)


def pointwise(conv: Any, x: Tensor) -> Tensor:
    """A 1 x 1 convolution of a channels-last map (height, width, dim)."""
    return x @ conv.weight[:, :, 0, 0].T + (0 if conv.bias is None else conv.bias)


def depthwise(conv: Any, x: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """A zero-padded depthwise convolution of a channels-last map, tap by tap."""
    height, width, dim = x.shape
    kernel, middle = conv.weight[:, 0], conv.weight.shape[2] // 2
    out = torch.zeros(-(-height // stride), -(-width // stride), dim, dtype=x.dtype)
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for a in range(kernel.shape[1]):
                for b in range(kernel.shape[2]):
                    row = i * stride + (a - middle) * dilation
                    column = j * stride + (b - middle) * dilation
                    if 0 <= row < height and 0 <= column < width:
                        out[i, j] += kernel[:, a, b] * x[row, column]
    return out + (0 if conv.bias is None else conv.bias)


def normalised(norm: Any, token: Tensor) -> Tensor:
    """LayerNorm of one token (dim)."""
    deviation = (token.var(correction=0) + norm.eps).sqrt()
    return (token - token.mean()) / deviation * norm.weight + norm.bias
