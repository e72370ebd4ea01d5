"""Aggregated attention (arXiv 2311.17132)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import attentions
from attentions import Grid
from attentions.aggregated import Params, positions_on
from tests.attentions import beside_birder
from tests.attentions.beside_timm import assert_is_timms as assert_is_birders
from tests.attentions.by_hand import normalised, pointwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "window_size": [1, 3, 5],
    "sr_ratio": [1, 2, 4],
    "pretrain_size": [None, 1, 7, 14],
    "qkv_bias": [True, False],
}
_POSITIONS = layers({"cpb_fc1": (512, 2), "cpb_fc2": (2, 512), "proj": (8, 8)}) | {
    "temperature": (2, 1, 1),
    "query_embedding": (2, 1, 4),
}
STATES = [  # the authors' AggregatedAttention and, at sr_ratio 1, their Attention
    (
        case("aggregated", 8, 2, 6, 5),
        _POSITIONS
        | layers({"q": (8, 8), "kv": (16, 8), "sr": (8, 8, 1, 1), "norm": (8,)})
        | {
            "relative_pos_bias_local": (2, 9),
            "learnable_tokens": (2, 4, 9),
            "learnable_bias": (2, 1, 9),
        },
    ),
    (case("aggregated", 8, 2, 6, 5, sr_ratio=1), _POSITIONS | layers({"qkv": (24, 8)})),
]
LOOPS = [
    case("aggregated", 8, 2, height, width, sr_ratio=ratio, window_size=size, pretrain_size=side)
    for height, width, ratio, size, side in (
        (4, 6, 2, 3, None),
        (7, 5, 2, 3, 14),
        (5, 3, 1, 3, 7),
        (5, 7, 4, 5, 7),
        (2, 2, 2, 1, None),
    )
]
REFUSED = [
    (case("aggregated", 8, 2, 4, 4, window_size=2), "window_size must be odd, got 2"),
    (case("aggregated", 8, 2, 4, 4, window_size=-1), "window_size must be odd, got -1"),
    (case("aggregated", 8, 2, 4, 4, sr_ratio=0), "sr_ratio must be at least 1, got 0"),
    (case("aggregated", 8, 2, 4, 4, pretrain_size=0), "pretrain_size must be at least 1, got 0"),
    (case("aggregated", 8, 2, 3, 9, sr_ratio=4), "a 3 x 9 map has no pooled token at sr_ratio 4"),
    (case("aggregated", 8, 2, 13, 29, sr_ratio=4), None),
]

AGGREGATED = attentions.load("aggregated")


def cells(side: int, pooled: int) -> list[range]:
    """The positions that each pooled one averages."""
    return [range(k * side // pooled, -(-(k + 1) * side // pooled)) for k in range(pooled)]


def log_scale(offset: float, side: int) -> Tensor:
    """In fp32, as the module keeps it."""
    share = torch.tensor(offset) / max(side - 1, 1) * 8
    return share.sign() * (share.abs() + 1).log2() / 3


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Query by query and head by head: neighbours, then pooled keys, one softmax, two sums."""
    height, width, dim = x.shape[1:]
    ratio, size = draw.params["sr_ratio"], draw.params["window_size"]
    if ratio == 1:
        q, keys, values = module.qkv(x[0]).chunk(3, dim=-1)
        pooled = x[0]
    else:
        q, (k, v) = module.q(x[0]), module.kv(x[0]).chunk(2, dim=-1)
        hidden = F.gelu(pointwise(module.sr, x[0]))
        pooled = torch.stack(
            [
                torch.stack(
                    [
                        torch.stack([hidden[i, j] for i in rows for j in columns]).mean(0)
                        for columns in cells(width, width // ratio)
                    ]
                )
                for rows in cells(height, height // ratio)
            ]
        )
        pooled = torch.stack([normalised(module.norm, token) for token in pooled.flatten(0, 1)])
        pooled = pooled.view(height // ratio, width // ratio, dim)
        keys, values = module.kv(pooled).chunk(2, dim=-1)
    middles = [
        [(cell[0] + cell[-1]) / 2 for cell in cells(side, side // ratio)]
        for side in (height, width)
    ]
    out = torch.empty_like(x[0])
    for i in range(height):
        for j in range(width):
            near = [
                (i + a, j + b, (a + size // 2) * size + b + size // 2)
                for a in range(-(size // 2), size // 2 + 1)
                for b in range(-(size // 2), size // 2 + 1)
                if ratio > 1 and 0 <= i + a < height and 0 <= j + b < width
            ]
            count = float(len(near) + pooled.shape[0] * pooled.shape[1])
            length = torch.tensor(count).log().double()  # in fp32, as the module keeps it
            for head in range(draw.num_heads):
                part = slice(head * 4, head * 4 + 4)
                query = q[i, j, part] / q[i, j, part].norm()
                scaled = query + module.query_embedding[head, 0]
                scaled = scaled * (1 + module.temperature[head, 0, 0].exp()).log() * length
                scores, chosen = [], []
                for m, n, place in near:
                    key = k[m, n, part] / k[m, n, part].norm()
                    scores.append(scaled @ key + module.relative_pos_bias_local[head, place])
                    chosen.append(v[m, n, part])
                for r, down in enumerate(middles[0]):
                    for c, right in enumerate(middles[1]):
                        key = keys[r, c, part] / keys[r, c, part].norm()
                        side = draw.params["pretrain_size"]
                        offset = torch.stack(
                            (
                                log_scale(i - down, side or height),
                                log_scale(j - right, side or width),
                            )
                        )
                        bias = module.cpb_fc2(module.cpb_fc1(offset.double()).relu())[head]
                        scores.append(scaled @ key + bias)
                        chosen.append(values[r, c, part])
                weights = torch.stack(scores).softmax(0)
                for index, (_, _, place) in enumerate(near):
                    own = query @ module.learnable_tokens[head, :, place]
                    weights[index] += own + module.learnable_bias[head, 0, place]
                out[i, j, part] = weights @ torch.stack(chosen)
    return module.proj(out)[None]


@pytest.mark.parametrize(
    ("height", "width", "ratio", "size"),
    [(8, 8, 2, 3), (7, 13, 2, 3), (9, 5, 4, 5), (6, 6, 1, 3), (5, 7, 1, 3)],
)
def test_is_birders(height: int, width: int, ratio: int, size: int) -> None:
    """birder's AggregatedAttention and, at sr_ratio 1, its Attention, with our positions."""
    params = {"sr_ratio": ratio, "window_size": size}
    draw = case("aggregated", 24, 3, height, width, **params)
    transnext = beside_birder.net("transnext")
    without = {"qkv_bias": True, "attn_drop": 0.0, "proj_drop": 0.0}
    theirs = (
        transnext.Attention(24, 3, **without)
        if ratio == 1
        else transnext.AggregatedAttention(24, 3, size, **without)
    )
    own = Params(sr_ratio=ratio, window_size=size)
    positions = positions_on(draw.grid, own, one_key_more=False)

    def call(module: Any, x: Tensor) -> Tensor:
        out = module(
            x.flatten(1, 2),
            height,
            width,
            (height // ratio, width // ratio),
            positions.index,
            positions.offsets.double(),
            positions.length.double(),
            positions.outside.isinf(),
        )
        return out.view(x.shape)

    assert_is_birders(draw, theirs, call=call)


@pytest.mark.parametrize(
    ("grid", "ratio", "size", "side"),
    [(Grid(8, 8), 2, 3, 14), (Grid(7, 13), 2, 3, 7), (Grid(9, 22), 4, 5, 9), (Grid(5, 7), 1, 3, 7)],
)
def test_positions_are_birders(grid: Grid, ratio: int, size: int, side: int) -> None:
    """Offsets between queries and keys, lengths and masks."""
    params = Params(sr_ratio=ratio, window_size=size, pretrain_size=side)
    ours = positions_on(grid, params, one_key_more=False)
    theirs = beside_birder.net("transnext").get_resolution_state(
        (grid.height, grid.width), ratio, size, pretrain_resolution=(side, side)
    )
    expected = theirs.relative_coords_table[theirs.relative_pos_index.view(grid.tokens, -1)]
    torch.testing.assert_close(ours.offsets[ours.index], expected, rtol=1e-6, atol=1e-6)
    assert ours.offsets.shape == theirs.relative_coords_table.shape
    expected = theirs.seq_length_scale.expand(grid.tokens, 1)
    torch.testing.assert_close(ours.length, expected)
    if ratio > 1:
        assert torch.equal(ours.outside.isinf(), theirs.padding_mask)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_neighbours_are_seen_sharply_and_the_rest_is_pooled(impl: str) -> None:
    """What leaves the averages of the pooled map alone is seen by neighbours only."""
    draw = case("aggregated", 8, 2, 8, 8)
    module: Any = draw.exact(impl)
    with torch.no_grad():
        module.sr.weight.zero_()  # so that no token moves the pooled map
        x = draw.input().double()
        moved = x.clone()
        moved[0, 2, 5] += 1
        changed = (module(moved) - module(x)).abs().amax(-1)[0] > 1e-12
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[1:4, 4:7] = True
    assert torch.equal(changed, expected)
