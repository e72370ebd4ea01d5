"""Spatial-reduction attention (arXiv 2102.12122)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.published import row

PARAMS: dict[str, list[Any]] = {"sr_ratio": [1, 2, 3, 8], "qkv_bias": [True, False]}

SRA = attentions.load("sra")


def test_published_row() -> None:
    """4.72 M parameters and 419.56 M MACs at ratio 2."""
    assert row("sra", sr_ratio=2) == ("4.72", "419.56")


def test_parameters() -> None:
    """The names and shapes of the authors' Attention; ratio 1 has neither sr nor norm."""

    def shapes(sr_ratio: int) -> dict[str, tuple[int, ...]]:
        module = SRA.build(8, 2, Grid(6, 6), impl="fused", sr_ratio=sr_ratio)
        return {key: tuple(value.shape) for key, value in module.state_dict().items()}

    projections = {
        "q.weight": (8, 8),
        "q.bias": (8,),
        "kv.weight": (16, 8),
        "kv.bias": (16,),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
    }
    reduction = {"sr.weight": (8, 8, 3, 3), "sr.bias": (8,), "norm.weight": (8,), "norm.bias": (8,)}
    assert shapes(1) == projections
    assert shapes(3) == projections | reduction


def test_slow_loop() -> None:
    """Keys and values from LayerNorm(Conv(x)), convolved patch by patch; query by query."""
    torch.manual_seed(0)
    module = SRA.build(12, 3, Grid(5, 6), impl="eager", sr_ratio=2).double()
    x = torch.randn(1, 5, 6, 12, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, 3), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, num_heads: int) -> Tensor:
    ratio, head_dim = module.sr_ratio, x.shape[3] // num_heads
    reduced = []
    for top in range(0, x.shape[1] - ratio + 1, ratio):
        for left in range(0, x.shape[2] - ratio + 1, ratio):
            patch = x[0, top : top + ratio, left : left + ratio]
            value = torch.einsum("ocij,ijc->o", module.sr.weight, patch) + module.sr.bias
            centred = value - value.mean()
            scaled = centred / (centred.square().mean() + module.norm.eps).sqrt()
            reduced.append(scaled * module.norm.weight + module.norm.bias)
    k, v = module.kv(torch.stack(reduced)).chunk(2, dim=-1)
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            q = module.q(x[0, i, j])
            mixed = [
                (k[:, part] @ q[part] / head_dim**0.5).softmax(0) @ v[:, part]
                for part in (slice(h * head_dim, (h + 1) * head_dim) for h in range(num_heads))
            ]
            out[0, i, j] = module.proj(torch.cat(mixed))
    return out


def test_ratio_one_is_msa() -> None:
    """sra(ratio 1) = msa, with no convolution and no norm; the same MACs."""
    torch.manual_seed(0)
    grid = Grid(4, 5)
    sra = SRA.build(12, 3, grid, impl="eager", sr_ratio=1).double()
    msa = attentions.load("msa").build(12, 3, grid, impl="eager").double()
    state = sra.state_dict()
    msa.load_state_dict(
        {
            "qkv.weight": torch.cat((state["q.weight"], state["kv.weight"])),
            "qkv.bias": torch.cat((state["q.bias"], state["kv.bias"])),
            "proj.weight": state["proj.weight"],
            "proj.bias": state["proj.bias"],
        }
    )
    x = torch.randn(2, 4, 5, 12, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(sra(x), msa(x), rtol=0, atol=1e-12)
    assert SRA.macs is not None
    msa_macs = attentions.load("msa").macs
    assert msa_macs is not None
    assert SRA.macs(12, 3, grid, sr_ratio=1) == msa_macs(12, 3, grid)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_a_remainder_is_seen_by_no_key(impl: str) -> None:
    """A token beyond a multiple of the ratio moves its own output only; another moves all."""
    torch.manual_seed(0)
    module = SRA.build(8, 2, Grid(7, 5), impl=impl, sr_ratio=2).double()
    x = torch.randn(1, 7, 5, 8, dtype=torch.float64)

    def moved_by(row: int, column: int) -> Tensor:
        moved = x.clone()
        moved[0, row, column] += torch.randn(8, dtype=torch.float64)
        return (module(moved) - module(x))[0].abs().amax(-1) > 1e-9

    with torch.inference_mode():
        assert moved_by(6, 1).nonzero().tolist() == [[6, 1]]
        assert moved_by(1, 4).nonzero().tolist() == [[1, 4]]
        assert moved_by(5, 3).all()


def test_unsupported() -> None:
    """A map smaller than the reduction has no keys."""
    reason = SRA.reason_against(8, 2, Grid(3, 9), sr_ratio=4)
    assert reason == "a 3 x 9 map is smaller than the reduction of 4: no key would be left"
    reason = SRA.reason_against(8, 2, Grid(3, 9), sr_ratio=0)
    assert reason == "sr_ratio must be at least 1, got 0"
