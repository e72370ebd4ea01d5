"""The softmax attention core: the equation, and the same function through a fused kernel."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attentions._groups import is_grouped
from attentions._halves import is_emulated
from attentions._linear import instructions, linear

Impl = Literal["eager", "fused"]


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

    `scale` is 1 / sqrt(head_dim) unless given. `bias` broadcasts over batch and heads.
    """
    if scale is None:
        scale = q.shape[-1] ** -0.5
    if impl == "eager":
        scores = (q * scale) @ k.transpose(-2, -1)
        if bias is not None:
            scores = scores + bias
        return scores.softmax(dim=-1) @ v
    batch = q.shape[:-3]
    if is_grouped(q) and _is_for_products(q, k, v):
        return by_products(q, k, v, bias, scale)
    if bias is not None and bias.dim() == q.dim() - 1 and batch[0] > 1 and is_grouped(q):
        # A bias of each window, for several images: they are taken one by one, or it were copied.
        parts = zip(q, k, v, strict=True)
        return torch.stack([attend(*part, impl=impl, bias=bias, scale=scale) for part in parts])
    if len(batch) > 1:  # the fused kernels take exactly one batch dimension
        if bias is not None:
            bias = bias.expand(*batch, *bias.shape[-3:]).flatten(0, len(batch) - 1)
        q, k, v = (tensor.flatten(0, len(batch) - 1) for tensor in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
    return mixed.unflatten(0, batch) if len(batch) > 1 else mixed


# Up to so many queries or keys, as in windows, batched products are faster than the fused kernel.
# With AVX2, up to so many pairs of them: 49 keys are few for 49 queries (products take 0.85 of the
# kernel's time), but not for 784 (1.37).
_FEW, _FEW_PAIRS = 64, 10_000
# Images are taken together while their scores stay in the cache from product to softmax to product.
# An image's own are cut only where they are larger by far, into a few heads of many queries:
# products of few rows are slow, in bf16 above all, which packs its operands anew for each.
_CACHED_BYTES, _SCORES_BYTES = 4 * 2**20, 32 * 2**20
_HEADS, _QUERIES = 2, 1024


def _is_for_products(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether batched products take less time than the fused kernel does, on a CPU.

    That one works in tiles, and multiplies by itself: for windows products take 0.75 of its time,
    in bf16, where they are oneDNN's, 0.65 to 0.9 at any size. And it wants the channels of a head
    side by side, without which torch runs the equations on the whole batch.
    """
    queries, keys = q.shape[-2], k.shape[-2]
    few = queries * keys <= _FEW_PAIRS if instructions() == "AVX2" else min(queries, keys) <= _FEW
    apart = any(one.stride(-1) != 1 for one in (q, k, v))
    return few or apart or (q.dtype == torch.bfloat16 and not is_emulated(q.dtype))


def by_products(
    q: Float[Tensor, "batch *windows heads queries head_dim"],
    k: Float[Tensor, "batch *windows heads keys head_dim"],
    v: Float[Tensor, "batch *windows heads keys value_dim"],
    bias: Float[Tensor, "*#windows #heads queries keys"] | None,
    scale: float,
) -> Float[Tensor, "batch *windows heads queries value_dim"]:
    """The equation on as many images, or heads, or queries at a time as stay in the cache."""
    *batch, heads, queries, _ = q.shape
    row = k.shape[-2] * q.element_size()
    of_image = math.prod(batch[1:]) * heads * queries * row
    images = max(1, _CACHED_BYTES // of_image)
    whole = len(batch) > 1 or of_image <= _SCORES_BYTES
    # The scale goes where there is less to multiply.
    q_scale, k_scale = (1.0, scale) if k.shape[-2] < queries else (scale, 1.0)
    if whole and images >= batch[0]:
        scores = scaled(q, q_scale) @ scaled(k, k_scale).transpose(-2, -1)
        if bias is not None:
            scores += bias
        return scores.softmax(dim=-1) @ v
    # As merge_heads wants it: the channels of all heads side by side.
    out = q.new_empty(*batch, queries, heads, v.shape[-1]).transpose(-3, -2)
    together = heads if whole else _HEADS
    rows = queries if whole else min(_QUERIES, max(64, _SCORES_BYTES // (together * row)))
    images = math.ceil(batch[0] / math.ceil(batch[0] / images))  # as many each time
    if bias is not None and bias.dim() < q.dim():
        bias = bias[(None,) * (q.dim() - bias.dim())]
    for image in range(0, batch[0], images):
        for head in range(0, heads, together):
            part = slice(image, image + images), ..., slice(head, head + together)
            keys = (slice(None), slice(None))
            q_part, k_part, v_part = (one[(*part, *keys)] for one in (q, k, v))
            q_part, k_part = scaled(q_part, q_scale), scaled(k_part, k_scale)
            if not whole:  # or each product copies them
                q_part, k_part, v_part = (one.contiguous() for one in (q_part, k_part, v_part))
            k_part = k_part.transpose(-2, -1)
            for first in range(0, queries, rows):
                here = (slice(first, first + rows), slice(None))
                scores = q_part[(..., *here)] @ k_part
                if bias is not None:
                    scores += _part_of(bias, part, here)
                out[(*part, *here)] = scores.softmax(dim=-1) @ v_part
    return out


def scaled(x: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    """x times the scale; itself where that is one."""
    return x if scale == 1 else x * scale


def _part_of(bias: Tensor, part: tuple[Any, ...], here: tuple[slice, slice]) -> Tensor:
    """The same part of a bias, whole where it has one for all images or heads."""
    images = part[0] if bias.shape[0] > 1 else slice(None)
    heads = part[2] if bias.shape[-3] > 1 else slice(None)
    return bias[(images, ..., heads, *here)]


def pointwise(
    x: Float[Tensor, "*batch in_channels"], convolution: nn.Conv2d
) -> Float[Tensor, "*batch out_channels"]:
    """A 1 x 1 convolution of a channels-last map: a matrix product."""
    return linear(x, convolution.weight.flatten(1), convolution.bias)


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
