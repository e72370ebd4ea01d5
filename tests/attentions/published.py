"""The setting of the published single-layer table: dim 768, 12 heads, 14 x 14 tokens."""

from __future__ import annotations

from typing import Any

import attentions
from attentions import Grid


def row(name: str, **params: Any) -> tuple[str, str]:
    """Parameters and MACs of one image, both in millions, printed as the table prints them."""
    spec, grid = attentions.load(name), Grid(14, 14)
    assert spec.macs is not None
    module = spec.build(768, 12, grid, impl="eager", **params)
    weights = sum(parameter.numel() for parameter in module.parameters())
    return f"{weights / 1e6:.2f}", f"{spec.macs(768, 12, grid, **params) / 1e6:.2f}"
