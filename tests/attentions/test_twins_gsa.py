"""Twins GSA, global sub-sampled attention (arXiv 2104.13840)."""

from __future__ import annotations

from typing import Any

import attentions
from tests.attentions import test_sra
from tests.attentions.draws import case, layers

# The function of sra, as its authors say.
sees, slowly = test_sra.sees, test_sra.slowly

PARAMS: dict[str, list[Any]] = {"sr_ratio": [1, 2, 3, 8], "qkv_bias": [True, False]}
STATES = [  # the authors' Attention; ratio 1 has neither sr nor norm
    (
        case("twins_gsa", 8, 2, 6, 6, sr_ratio=1),
        layers({"q": (8, 8), "kv": (16, 8), "proj": (8, 8)}),
    ),
    (
        case("twins_gsa", 8, 2, 6, 6, sr_ratio=2),
        layers({"q": (8, 8), "kv": (16, 8), "proj": (8, 8), "sr": (8, 8, 2, 2), "norm": (8,)}),
    ),
]
LOOPS = [case("twins_gsa", 8, 2, 5, 7, sr_ratio=3)]
REFUSED = [
    (
        case("twins_gsa", 8, 2, 9, 3, sr_ratio=4),
        "a 9 x 3 map is smaller than the reduction of 4: no key would be left",
    ),
    (case("twins_gsa", 8, 2, 3, 9, sr_ratio=0), "sr_ratio must be at least 1, got 0"),
]

GSA = attentions.load("twins_gsa")
