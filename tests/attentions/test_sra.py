"""Spatial-reduction attention (arXiv 2102.12122)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.attentions.by_hand import attend, normalised
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"sr_ratio": [1, 2, 3, 8], "qkv_bias": [True, False]}
PUBLISHED = {"sr_ratio": 2}, "4.72", "419.56"
STATES = [  # the authors' Attention; ratio 1 has neither sr nor norm
    (case("sra", 8, 2, 6, 6, sr_ratio=1), layers({"q": (8, 8), "kv": (16, 8), "proj": (8, 8)})),
    (
        case("sra", 8, 2, 6, 6, sr_ratio=3),
        layers({"q": (8, 8), "kv": (16, 8), "proj": (8, 8), "sr": (8, 8, 3, 3), "norm": (8,)}),
    ),
]
LOOPS = [case("sra", 12, 3, 5, 6, sr_ratio=2)]
REFUSED = [
    (
        case("sra", 8, 2, 3, 9, sr_ratio=4),
        "a 3 x 9 map is smaller than the reduction of 4: no key would be left",
    ),
    (case("sra", 8, 2, 3, 9, sr_ratio=0), "sr_ratio must be at least 1, got 0"),
]


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """A token beyond a multiple of the ratio is in no key: only its own query sees it.

    That query decides nothing where there is one key.
    """
    ratio, height, width = draw.params["sr_ratio"], draw.grid.height, draw.grid.width
    own = torch.zeros(height, width, dtype=torch.bool)
    own[row, column] = (height // ratio) * (width // ratio) > 1
    in_a_key = row < height // ratio * ratio and column < width // ratio * ratio
    return torch.ones_like(own) if in_a_key else own


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Keys and values from LayerNorm(Conv(x)), convolved patch by patch; query by query."""
    ratio, reduced = draw.params["sr_ratio"], []
    for top in range(0, x.shape[1] - ratio + 1, ratio):
        for left in range(0, x.shape[2] - ratio + 1, ratio):
            patch = x[0, top : top + ratio, left : left + ratio]
            value = torch.einsum("ocij,ijc->o", module.sr.weight, patch) + module.sr.bias
            reduced.append(normalised(module.norm, value))
    k, v = module.kv(torch.stack(reduced)).chunk(2, dim=-1)
    mixed = [attend(q, k, v, draw.num_heads) for q in module.q(x).flatten(0, 2)]
    return module.proj(torch.stack(mixed)).view_as(x)
