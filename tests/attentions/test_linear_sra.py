"""Linear spatial-reduction attention (arXiv 2106.13797)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.by_hand import attend, normalised, pointwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"pool_size": [1, 2, 3, 7], "qkv_bias": [True, False]}
STATES = [  # the authors' Attention with linear=True
    (
        case("linear_sra", 8, 2, 9, 9),
        layers({"q": (8, 8), "kv": (16, 8), "proj": (8, 8), "sr": (8, 8, 1, 1), "norm": (8,)}),
    )
]
LOOPS = [
    case("linear_sra", 8, 2, height, width, pool_size=3)
    for height, width in ((6, 8), (5, 7), (2, 1))
]
REFUSED = [(case("linear_sra", 8, 2, 4, 4, pool_size=0), "pool_size must be at least 1, got 0")]

LINEAR = attentions.load("linear_sra")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Pooled cell by cell, convolved, normalised, through GELU; attended to query by query.

    Cell i of a side of n is rows floor(i n / P) to ceil((i + 1) n / P).
    """
    size, (height, width), cells = draw.params["pool_size"], x.shape[1:3], []
    for i in range(size):
        for j in range(size):
            rows = slice(i * height // size, -(-(i + 1) * height // size))
            columns = slice(j * width // size, -(-(j + 1) * width // size))
            value = normalised(module.norm, pointwise(module.sr, x[0, rows, columns].mean((0, 1))))
            cells.append(value * (1 + torch.erf(value / math.sqrt(2))) / 2)
    k, v = module.kv(torch.stack(cells)).chunk(2, dim=-1)
    mixed = [attend(q, k, v, draw.num_heads) for q in module.q(x).flatten(0, 2)]
    return module.proj(torch.stack(mixed)).view_as(x)


def test_cost_is_linear_in_tokens() -> None:
    """Each token more costs the same, however large the map."""
    assert LINEAR.macs is not None
    counts = [LINEAR.macs(64, 2, Grid(side, 10)) for side in (10, 20, 30)]
    assert counts[2] - counts[1] == counts[1] - counts[0]


def test_change_that_pooling_does_not_see_stays_where_it_is() -> None:
    """Two opposite changes in one pooled cell move the outputs of their own tokens only."""
    torch.manual_seed(0)
    module = LINEAR.build(8, 2, Grid(6, 6), impl="fused", pool_size=2).double()
    x = torch.randn(1, 6, 6, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, 0, 0] += 1
    moved[0, 2, 1] -= 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1) > 1e-9
    assert change.nonzero().tolist() == [[0, 0], [2, 1]]
