"""Convolutional attention of CPUBone (arXiv 2603.26425)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.cpubone import ConvAttention
from torch import Tensor

from tests.attentions.beside_timm import Weights, assert_is_timms, channels_first
from tests.attentions.by_hand import pointwise
from tests.attentions.draws import Draw, case

PARAMS: dict[str, list[Any]] = {"att_stride": [1, 2], "head_dim_mul": [0.25, 0.5, 1.0]}


def state(kernel: str) -> dict[str, tuple[int, ...]]:
    """The authors' ConvAttention at dim 8, with this name for its convolution."""
    return {
        kernel: (8, 1, 2, 2),
        "conv_proj.norm.weight": (8,),
        "conv_proj.norm.bias": (8,),
        "conv_proj.norm.running_mean": (8,),
        "conv_proj.norm.running_var": (8,),
        "conv_proj.norm.num_batches_tracked": (),
        "pwise.0.weight": (12, 8, 1, 1),
        "upsampling.0.weight": (8, 4, 1, 1),
        "upsampling.0.bias": (8,),
    }


STATES = [
    (case("conv_attention", 8, 2, 4, 4), state("conv_proj.conv.weight")),
    (case("conv_attention", 8, 2, 4, 4, att_stride=1), state("conv_proj.conv.1.weight")),
]
LOOPS = [
    case("conv_attention", 8, 2, height, width, att_stride=stride)
    for height, width, stride in ((4, 6, 2), (5, 3, 2), (3, 4, 1), (1, 1, 2))
]
REFUSED = [
    (
        case("conv_attention", 8, 2, 4, 4, att_stride=3),
        "att_stride is 1 or 2, the side of the kernel, got 3",
    ),
    (
        case("conv_attention", 8, 2, 4, 4, head_dim_mul=0.2),
        "head_dim_mul must leave a head at least 1 of its 4 channels, got 0.2",
    ),
    (case("conv_attention", 8, 2, 4, 4), None),
]


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Reduced square by square, attended to query by query, and repeated."""
    stride, (height, width) = draw.params["att_stride"], x.shape[1:3]
    if stride == 1:
        conv, padded = module.conv_proj.conv[1], F.pad(x[0], (0, 0, 1, 0, 1, 0))
    else:
        conv, padded = module.conv_proj.conv, F.pad(x[0], (0, 0, 0, width % 2, 0, height % 2))
    norm, kernel = module.conv_proj.norm, conv.weight[:, 0]
    rows, columns = ((side - 2) // stride + 1 for side in padded.shape[:2])
    reduced = torch.zeros(rows, columns, draw.dim, dtype=x.dtype)
    for i in range(rows):
        for j in range(columns):
            for a in range(2):
                for b in range(2):
                    reduced[i, j] += kernel[:, a, b] * padded[i * stride + a, j * stride + b]
    deviation = (norm.running_var + norm.eps).sqrt()
    reduced = (reduced - norm.running_mean) / deviation * norm.weight + norm.bias
    heads = pointwise(module.pwise[0], reduced).flatten(0, 1).chunk(draw.num_heads, dim=-1)
    mixed = []
    for head in heads:  # queries, keys and values of a head lie together
        q, k, v = head.chunk(3, dim=-1)
        mixed.append(torch.stack([(k @ query / len(query) ** 0.5).softmax(0) @ v for query in q]))
    small = pointwise(module.upsampling[0], torch.cat(mixed, dim=-1)).view(rows, columns, -1)
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            out[0, i, j] = small[i // stride, j // stride]
    return out


@pytest.mark.parametrize(
    ("height", "width", "stride"), [(8, 8, 2), (5, 7, 2), (7, 7, 1), (4, 9, 1)]
)
def test_is_timms(height: int, width: int, stride: int) -> None:
    """timm's ConvAttention as its published models have it, with as many heads as it chooses."""

    def renamed(weights: Weights) -> Weights:
        return {name.replace("pwise.", "pwise.0."): weights[name] for name in weights}

    theirs = ConvAttention(
        120,
        head_dim_mul=0.5,
        att_stride=stride,
        fuse_out_proj=True,
        small_kernels=True,
        upsample_mode="nearest",
    )
    draw = case("conv_attention", 120, theirs.num_heads, height, width, att_stride=stride)
    assert_is_timms(draw, theirs, call=channels_first, renamed=renamed)


def test_squares_get_the_same() -> None:
    """At stride 2 the tokens of a square have one output; at stride 1 each has its own."""
    x = torch.randn(1, 4, 6, 8, dtype=torch.float64)
    for stride, is_same in ((2, True), (1, False)):
        module = case("conv_attention", 8, 2, 4, 6, att_stride=stride).exact("fused")
        with torch.inference_mode():
            squares = module(x).unflatten(1, (2, 2)).unflatten(3, (3, 2))
        same = torch.equal(squares, squares[:, :, :1, :, :1].expand_as(squares))
        assert same == is_same


def test_training_takes_the_statistics_of_the_batch() -> None:
    """In training mode both implementations give the same, and keep the same statistics."""
    x = torch.randn(3, 4, 5, 8, dtype=torch.float64)
    outputs, states = [], []
    for impl in ("eager", "fused"):
        module = case("conv_attention", 8, 2, 4, 5).exact(impl).train()
        outputs.append(module(x))
        states.append(module.state_dict())
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*states, rtol=1e-10, atol=1e-12)
