"""Global context attention (arXiv 2206.09959)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.gcvit import (
    FeatureBlock,
    WindowAttentionGlobal,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn

import attentions
from attentions import Grid
from attentions.global_context import cubic
from tests.attentions.beside_timm import Weights, assert_is_timms
from tests.attentions.by_hand import attend, depthwise, pointwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "window_size": [1, 2, 3, 7],
    "levels": [0, 1, 2],
    "qkv_bias": [True, False],
}
STATES = [  # the authors' WindowAttentionGlobal and the queries of their stage
    (
        case("global_context", 8, 2, 6, 6, window_size=3),
        layers({"qkv": (16, 8), "proj": (8, 8)})
        | {
            "relative_position_bias_table": (25, 2),
            "relative_position_index": (9, 9),
            "to_q_global.0.conv.0.weight": (8, 1, 3, 3),
            "to_q_global.0.conv.2.fc.0.weight": (2, 8),
            "to_q_global.0.conv.2.fc.2.weight": (8, 2),
            "to_q_global.0.conv.3.weight": (8, 8, 1, 1),
        },
    )
]
LOOPS = [
    case("global_context", 8, 2, height, width, window_size=size, levels=levels)
    for height, width, size, levels in ((6, 6, 3, 1), (5, 6, 3, 1), (3, 2, 3, 0))
]
REFUSED = [
    (case("global_context", 8, 2, 4, 4, window_size=0), "window_size must be at least 1, got 0"),
    (case("global_context", 8, 2, 4, 4, levels=-1), "levels must be at least 0, got -1"),
    (
        case("global_context", 2, 2, 4, 4),
        "the gate has a quarter of the channels: dim 2 is under 4",
    ),
]

GLOBAL_CONTEXT = attentions.load("global_context")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """The queries layer by layer and cell by cell; then attention, query by query."""
    image, (height, width) = x[0], x.shape[1:3]
    for layer in module.to_q_global:
        around, _, gate, mixing = layer.conv
        hidden = depthwise(around, image)
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        first, _, second, _ = gate.fc
        inner = first.weight @ hidden.mean((0, 1))
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        hidden = hidden / (1 + (-(second.weight @ inner)).exp())
        image = image + pointwise(mixing, hidden)
        if draw.params["levels"]:
            rows, columns = ((side + 1) // 2 for side in image.shape[:2])
            image = torch.stack(
                [
                    torch.stack(
                        [
                            image[max(0, 2 * i - 1) : 2 * i + 2, max(0, 2 * j - 1) : 2 * j + 2]
                            .flatten(0, 1)
                            .amax(0)
                            for j in range(columns)
                        ]
                    )
                    for i in range(rows)
                ]
            )
    tall, wide = min(3, height), min(3, width)
    assert image.shape[:2] == (tall, wide)  # without resizing
    table = module.relative_position_bias_table.view(2 * tall - 1, 2 * wide - 1, -1)
    padded = F.pad(x[0], (0, 0, 0, -width % wide, 0, -height % tall))
    k, v = module.qkv(padded).chunk(2, dim=-1)
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            top, left = i // tall * tall, j // wide * wide
            window = [(m, n) for m in range(top, top + tall) for n in range(left, left + wide)]
            bias = torch.stack([table[i - m + tall - 1, j - n + wide - 1] for m, n in window])
            keys, values = (torch.stack([part[place] for place in window]) for part in (k, v))
            query = image[i - top, j - left]
            out[0, i, j] = attend(query, keys, values, draw.num_heads, bias)
    return module.proj(out)


class Timms(nn.Module):
    """timm's attention, on the windows of a map that they divide, with timm's queries for it."""

    def __init__(self, dim: int, heads: int, window: int, levels: int) -> None:
        super().__init__()
        self.queries = FeatureBlock(dim, levels)
        self.attn = WindowAttentionGlobal(dim, heads, (window, window))
        self.window = (window, window)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        windows = window_partition(x, self.window).flatten(1, 2)
        return window_reverse(self.attn(windows, queries), self.window, x.shape[1:3])


def renamed(weights: Weights) -> Weights:
    """timm's names as the authors'."""
    names = {"conv_dw": "conv.0", "se.fc1": "conv.2.fc.0", "se.fc2": "conv.2.fc.2"}
    names |= {"conv_pw": "conv.3"}
    translated = {}
    for name, value in weights.items():
        if name.startswith("queries"):
            _, _, block, *layer, _ = name.split(".")
            number = int(block.removeprefix("conv")) - 1
            name = f"to_q_global.{number}.{names['.'.join(layer)]}.weight"
        translated[name.removeprefix("attn.").removeprefix("rel_pos.")] = value
    return translated


@pytest.mark.parametrize(
    ("height", "width", "size", "levels"), [(8, 8, 4, 1), (7, 7, 7, 0), (12, 12, 3, 2)]
)
def test_is_timms(height: int, width: int, size: int, levels: int) -> None:
    """timm's WindowAttentionGlobal and FeatureBlock, where the windows divide the map."""
    draw = case("global_context", 32, 2, height, width, window_size=size, levels=levels)
    theirs = Timms(32, 2, size, levels)
    assert_is_timms(draw, theirs, call=lambda module, x: module(x), renamed=renamed)


def test_each_window_asks_the_same() -> None:
    """Windows with the same tokens get the same result, wherever they are."""
    module = case("global_context", 8, 2, 6, 9, window_size=3).exact("fused")
    x = torch.randn(1, 3, 3, 8, dtype=torch.float64).repeat(1, 2, 3, 1)
    with torch.inference_mode():
        out = module(x)
    torch.testing.assert_close(out, out[:, :3, :3].repeat(1, 2, 3, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "resized"), [(80, 14), (3, 7), (1, 4), (7, 7), (5, 2)])
def test_resizing_is_bicubic(size: int, resized: int) -> None:
    """The matrix along a side does what PyTorch's bicubic interpolation does."""
    x = torch.randn(1, 2, size, 6, dtype=torch.float64)
    expected = F.interpolate(x, size=(resized, 6), mode="bicubic")
    torch.testing.assert_close(cubic(size, resized).double() @ x, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_any_map_is_summarised_to_the_window(impl: str) -> None:
    """A summary of another size than the window is resized to it."""
    module: Any = GLOBAL_CONTEXT.build(8, 2, Grid(16, 20), impl=impl, window_size=3, levels=1)
    assert module.global_queries(torch.randn(2, 16, 20, 8)).shape == (2, 9, 8)
