"""Pooling as token mixer (arXiv 2111.11418)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.draws import Draw, case

PARAMS: dict[str, list[Any]] = {"pool_size": [1, 3, 5, 7]}
COUNTS = [(case("pooling", 768, 12, 14, 14), 0, 0)]
STATES: list[Any] = [(case("pooling", 768, 12, 14, 14), {})]
LOOPS = [
    case("pooling", 3, 1, height, width, pool_size=pool_size)
    for height, width in ((1, 1), (1, 6), (5, 7), (6, 2))
    for pool_size in (1, 3, 5)
]
REFUSED = [
    (
        case("pooling", 8, 2, 3, 3, pool_size=pool_size),
        f"pool_size must be odd, so that a token is at its centre, got {pool_size}",
    )
    for pool_size in (0, 2)
]


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """The mean of those neighbours that lie on the map, less the token."""
    reach = draw.params["pool_size"] // 2
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            rows = slice(max(0, i - reach), i + reach + 1)
            columns = slice(max(0, j - reach), j + reach + 1)
            out[0, i, j] = x[0, rows, columns].mean((0, 1)) - x[0, i, j]
    return out


POOLING = attentions.load("pooling")


def test_heads_do_not_matter() -> None:
    """num_heads changes nothing."""
    x = torch.randn(1, 4, 4, 6)
    one, three = (POOLING.build(6, heads, Grid(4, 4), impl="eager")(x) for heads in (1, 3))
    assert torch.equal(one, three)
