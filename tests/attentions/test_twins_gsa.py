"""Twins GSA, global sub-sampled attention (arXiv 2104.13840)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid

PARAMS: dict[str, list[Any]] = {"sr_ratio": [1, 2, 3, 8], "qkv_bias": [True, False]}

GSA = attentions.load("twins_gsa")


def test_parameters() -> None:
    """The names and shapes of the authors' Attention; ratio 1 has neither sr nor norm."""

    def shapes(sr_ratio: int) -> dict[str, tuple[int, ...]]:
        module = GSA.build(8, 2, Grid(6, 6), impl="fused", sr_ratio=sr_ratio)
        return {key: tuple(value.shape) for key, value in module.state_dict().items()}

    projections = {
        "q.weight": (8, 8),
        "q.bias": (8,),
        "kv.weight": (16, 8),
        "kv.bias": (16,),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
    }
    reduction = {"sr.weight": (8, 8, 2, 2), "sr.bias": (8,), "norm.weight": (8,), "norm.bias": (8,)}
    assert shapes(1) == projections
    assert shapes(2) == projections | reduction


def test_slow_loop() -> None:
    """One key for each whole window, by convolution and LayerNorm; query by query."""
    torch.manual_seed(0)
    module = GSA.build(8, 2, Grid(5, 7), impl="eager", sr_ratio=3).double()
    x = torch.randn(1, 5, 7, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, 2), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, num_heads: int) -> Tensor:
    ratio, dim = module.sr_ratio, x.shape[3]
    representatives = []
    for top in range(0, x.shape[1] // ratio * ratio, ratio):
        for left in range(0, x.shape[2] // ratio * ratio, ratio):
            value = module.sr.bias.clone()
            for row in range(ratio):
                for column in range(ratio):
                    value += module.sr.weight[:, :, row, column] @ x[0, top + row, left + column]
            deviation = (value.var(correction=0) + module.norm.eps).sqrt()
            normal = (value - value.mean()) / deviation
            representatives.append(module.kv(normal * module.norm.weight + module.norm.bias))
    keys = torch.stack(representatives).view(-1, 2, num_heads, dim // num_heads)
    out = torch.empty_like(x)
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            q = module.q(x[0, row, column]).view(num_heads, -1)
            scores = torch.einsum("hd,mhd->hm", q, keys[:, 0]) / (dim // num_heads) ** 0.5
            mixed = torch.einsum("hm,mhd->hd", scores.softmax(-1), keys[:, 1])
            out[0, row, column] = module.proj(mixed.flatten())
    return out


def test_is_sra() -> None:
    """The function of sra with the same weights, and its MACs."""
    torch.manual_seed(0)
    grid = Grid(7, 9)
    gsa = GSA.build(12, 3, grid, impl="fused", sr_ratio=2).double()
    spec = attentions.load("sra")
    sra = spec.build(12, 3, grid, impl="fused", sr_ratio=2).double()
    sra.load_state_dict(gsa.state_dict())
    x = torch.randn(2, 7, 9, 12, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.equal(gsa(x), sra(x))
    assert GSA.macs is not None
    assert spec.macs is not None
    assert GSA.macs(12, 3, grid, sr_ratio=2) == spec.macs(12, 3, grid, sr_ratio=2)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_whole_windows_are_seen_everywhere(impl: str) -> None:
    """A token of a whole window moves every output; one beyond the last window only its own."""
    torch.manual_seed(0)
    module = GSA.build(8, 2, Grid(7, 7), impl=impl, sr_ratio=3).double()
    x = torch.randn(1, 7, 7, 8, dtype=torch.float64)

    def moved_by(row: int, column: int) -> Tensor:
        moved = x.clone()
        moved[0, row, column] += torch.randn(8, dtype=torch.float64)
        return (module(moved) - module(x))[0].abs().amax(-1) > 1e-9

    with torch.inference_mode():
        assert moved_by(5, 5).all()
        assert moved_by(6, 0).nonzero().tolist() == [[6, 0]]


def test_unsupported() -> None:
    """A map smaller than the reduction has no keys."""
    reason = GSA.reason_against(8, 2, Grid(9, 3), sr_ratio=4)
    assert reason == "a 9 x 3 map is smaller than the reduction of 4: no key would be left"
    assert GSA.reason_against(8, 2, Grid(9, 3), sr_ratio=0) == "sr_ratio must be at least 1, got 0"
