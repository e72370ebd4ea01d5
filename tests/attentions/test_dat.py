"""Deformable attention (arXiv 2201.00520, first release)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.by_hand import depthwise, pointwise
from tests.attentions.draws import Draw, case, layers, shake

PARAMS: dict[str, list[Any]] = {
    "groups": [1, 2, 3],
    "stride": [1, 2, 3],
    "kernel_size": [1, 3, 5, 9],
    "offset_range": [-1, 0, 0.5, 2],
    "position_bias": ["table", "conv", "none"],
}
_ROW = {"groups": 3, "stride": 1, "offset_range": 2, "kernel_size": 5}
PUBLISHED = _ROW | {"position_bias": "table"}, "2.38", "528.69"
COUNTS = [(case("dat", 768, 12, 14, 14), None, 528_691_968)]
_COMMON = layers({f"proj_{name}": (12, 12, 1, 1) for name in ("q", "k", "v", "out")})
_COMMON |= layers({"conv_offset.0": (4, 1, 7, 7), "conv_offset.1.norm": (4,)})
_COMMON |= {"conv_offset.3.weight": (2, 4, 1, 1)}
STATES = [  # the authors' DAttentionBaseline, for each position bias
    (case("dat", 12, 6, 4, 5, kernel_size=7, position_bias=position_bias), _COMMON | table)
    for position_bias, table in (
        ("none", {}),
        ("table", {"rpe_table": (6, 7, 9)}),
        ("conv", layers({"rpe_table": (12, 1, 3, 3)})),
    )
]
_LOOP = {"groups": 2, "kernel_size": 3}
LOOPS = [
    case("dat", 8, 4, 3, 4, **_LOOP, stride=stride, offset_range=reach, position_bias=position_bias)
    for stride, reach in ((1, 2.0), (2, 0.0), (2, -1.0))
    for position_bias in ("table", "conv", "none")
]
REFUSED = [
    (case("dat", 64, 8, 14, 14), "num_heads must be divisible by groups, got 8 and 3"),
    (case("dat", 96, 6, 14, 14, stride=0), "stride must be at least 1, got 0"),
    (
        case("dat", 96, 6, 14, 14, kernel_size=4),
        "kernel_size must be an odd number from 1 on, got 4",
    ),
    (
        case("dat", 96, 6, 14, 14, position_bias="fixed"),
        "position_bias is one of table, conv, none, got 'fixed'",
    ),
]

DAT = attentions.load("dat")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Point by point and query by query, with the offsets, both samplings and the bias by hand.

    Two groups of two heads of two channels.
    """
    stride = draw.params["stride"]
    height, width = x.shape[1:3]
    q = pointwise(module.proj_q, x[0])
    points: list[list[tuple[float, float]]] = []
    keys = []
    for group in (slice(0, 4), slice(4, 8)):
        where = placed(module, q[..., group], stride)
        points.append(where)
        keys.append(torch.stack([bilinear(x[0, ..., group], *point) for point in where]))
    sampled = torch.cat(keys, dim=-1)
    k, v = pointwise(module.proj_k, sampled), pointwise(module.proj_v, sampled)
    out = torch.empty_like(x[0])
    for i in range(height):
        for j in range(width):
            for head in range(4):
                part = slice(2 * head, 2 * head + 2)
                scores = k[:, part] @ q[i, j, part] / math.sqrt(2)
                if module.position_bias == "table":
                    table = module.rpe_table[head][..., None]
                    for n, (y, x_) in enumerate(points[head // 2]):
                        apart = (centre(i, height) - y) / 2, (centre(j, width) - x_) / 2
                        scores[n] += bilinear(table, *apart)[0]
                out[i, j, part] = scores.softmax(0) @ v[:, part]
    if module.position_bias == "conv":
        out = out + depthwise(module.rpe_table, q)
    return pointwise(module.proj_out, out)[None]


def placed(module: Any, q: Tensor, stride: int) -> list[tuple[float, float]]:
    """The points of one group, (y, x), row by row."""
    conv, norm, _, last = module.conv_offset
    hidden = depthwise(conv, q, stride=stride)
    hidden = F.gelu(F.layer_norm(hidden, (4,), norm.norm.weight, norm.norm.bias))
    offsets = hidden @ last.weight[:, :, 0, 0].T
    rows, columns = offsets.shape[:2]
    return [
        (
            moved(i, rows, offsets[i, j, 0].item(), module.offset_range),
            moved(j, columns, offsets[i, j, 1].item(), module.offset_range),
        )
        for i in range(rows)
        for j in range(columns)
    ]


def moved(place: int, size: int, offset: float, offset_range: float) -> float:
    if offset_range > 0:
        return centre(place, size) + math.tanh(offset) * offset_range / size
    if offset_range == 0:
        return centre(place, size) + offset
    return math.tanh(centre(place, size) + offset)


def centre(place: int, size: int) -> float:
    return (place + 0.5) / size * 2 - 1


def bilinear(map_: Tensor, y: float, x: float) -> Tensor:
    """The map between its tokens; -1 and 1 are its first and last, zeros lie outside."""
    row, column = (y + 1) / 2 * (map_.shape[0] - 1), (x + 1) / 2 * (map_.shape[1] - 1)
    value = torch.zeros_like(map_[0, 0])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < map_.shape[0] and 0 <= j < map_.shape[1]:
                value = value + (1 - abs(row - i)) * (1 - abs(column - j)) * map_[i, j]
    return value


@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    stride=st.integers(1, 3),
    offset_range=st.sampled_from([0.5, 2.0, 3.0]),
)
def test_points_stay_near_where_they_start(
    height: int, width: int, stride: int, offset_range: float
) -> None:
    """One point for stride x stride tokens, moved by less than range / 2 times their distance."""
    params = {"groups": 2, "stride": stride, "offset_range": offset_range}
    module: Any = shake(DAT.build(8, 2, Grid(height, width), impl="fused", **params)).double()
    with torch.inference_mode():
        x, y = module.points(torch.randn(3, 8, height, width, dtype=torch.float64)).unbind(-1)
    rows, columns = -(-height // stride), -(-width // stride)
    assert x.shape == y.shape == (6, rows, columns)
    regular_y = torch.tensor([centre(i, rows) for i in range(rows)])[:, None]
    regular_x = torch.tensor([centre(j, columns) for j in range(columns)])
    assert ((y - regular_y).abs() <= offset_range / rows + 1e-6).all()
    assert ((x - regular_x).abs() <= offset_range / columns + 1e-6).all()


def test_without_offsets_it_is_msa_over_a_resampled_map() -> None:
    """Unmoved points, a table of one value: softmax does not see it, keys are between tokens."""
    torch.manual_seed(0)
    module: Any = DAT.build(12, 6, Grid(5, 4), impl="eager").double()
    torch.nn.init.zeros_(module.conv_offset[3].weight)
    torch.nn.init.constant_(module.rpe_table, 3.0)
    x = torch.randn(2, 5, 4, 12, dtype=torch.float64)
    between = torch.stack(
        [
            torch.stack([bilinear(image, centre(i, 5), centre(j, 4)) for j in range(4)])
            for image in x
            for i in range(5)
        ]
    ).view_as(x)
    q, k, v = (
        pointwise(conv, tokens).flatten(1, 2).unflatten(2, (6, 2)).transpose(1, 2)
        for conv, tokens in ((module.proj_q, x), (module.proj_k, between), (module.proj_v, between))
    )
    mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).view_as(x)
    with torch.inference_mode():
        expected = pointwise(module.proj_out, mixed)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)


def test_half_types_place_their_points_in_single_precision() -> None:
    """A bf16 coordinate would be off by an eighth of a token on a side of 64."""
    module: Any = DAT.build(8, 2, Grid(4, 4), impl="eager", groups=2)
    query = torch.randn(1, 8, 4, 4)
    assert module.points(query).dtype == torch.float32
    assert module.double().points(query.double()).dtype == torch.float64
    assert module.bfloat16().points(query.bfloat16()).dtype == torch.float32


def test_a_table_is_for_its_grid() -> None:
    """Another map than the table's is refused, not stretched; without a table it runs."""
    x = torch.randn(1, 4, 5, 6)
    module = DAT.build(6, 3, Grid(5, 4), impl="fused")
    with pytest.raises(ValueError, match="the bias table is for 5 x 4, got 4 x 5"):
        module(x)
    for position_bias in ("conv", "none"):
        other = DAT.build(6, 3, Grid(5, 4), impl="fused", position_bias=position_bias)
        assert other(x).shape == x.shape
