"""Linformer (arXiv 2006.04768)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.by_hand import attend
from tests.attentions.draws import Draw, case, layers, parameters

PARAMS: dict[str, list[Any]] = {
    "k": [1, 5, 16, 40],
    "one_kv_head": [True, False],
    "share_kv": [True, False],
    "qkv_bias": [True, False],
}
PUBLISHED = {"k": 256}, "2.46", "616.56"
_QUERIES = layers({"to_out": (8, 8)}) | {"to_q.weight": (8, 8)}
_KEYS = {"to_k.weight": (8, 8), "proj_k": (6, 5)}
_VALUES = {"to_v.weight": (8, 8), "proj_v": (6, 5)}
_NARROW = {"to_k.weight": (4, 8), "to_v.weight": (4, 8)}
STATES = [  # lucidrains' LinformerSelfAttention
    (case("linformer", 8, 2, 2, 3, k=5), _QUERIES | _KEYS | _VALUES),
    (case("linformer", 8, 2, 2, 3, k=5, share_kv=True), _QUERIES | _KEYS),
    (case("linformer", 8, 2, 2, 3, k=5, one_kv_head=True), _QUERIES | _KEYS | _VALUES | _NARROW),
]
LOOPS = [
    case("linformer", 12, 3, 3, 4, k=5, one_kv_head=one, share_kv=share, qkv_bias=True)
    for one in (False, True)
    for share in (False, True)
]
REFUSED = [(case("linformer", 8, 2, 3, 3, k=0), "k must be at least 1, got 0")]

LINFORMER = attentions.load("linformer")


def test_committed_script() -> None:
    """The script beside the published table says k = 128, and prints 2.41 M and 539.50 M.

    It is not what the table shows. Its MACs are 539.49 M: fvcore reads the cost of an einsum in
    NumPy's report, which prints it with four digits, and the script has four of 38.54 M flops.
    """
    script = case("linformer", 768, 12, 14, 14, k=128, qkv_bias=True)
    assert f"{parameters(script) / 1e6:.2f} {script.macs / 1e6:.2f}" == "2.41 539.49"
    linear = 4 * 196 * 768**2
    for k, printed in ((128, "539.50"), (256, "616.56")):
        product = 196 * k * 768
        assert case("linformer", 768, 12, 14, 14, k=k).macs == linear + 4 * product
        in_report = float(f"{2 * product:.3e}") // 2
        assert f"{(linear + 4 * in_report) / 1e6:.2f}" == printed


def test_parameters_grow_with_the_map() -> None:
    """2 k more for each token more."""

    def count(grid: Grid) -> int:
        module = LINFORMER.build(8, 2, grid, impl="eager", k=16)
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(Grid(7, 6)) - count(Grid(5, 6)) == 2 * 16 * 12


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Keys and values summed over the tokens with learned weights; query by query."""
    tokens = x.flatten(0, 2)
    keys = module.proj_k.T @ module.to_k(tokens)
    values = keys if module.share_kv else module.proj_v.T @ module.to_v(tokens)
    if draw.params["one_kv_head"]:
        keys, values = (part.repeat(1, draw.num_heads) for part in (keys, values))
    mixed = [attend(q, keys, values, draw.num_heads) for q in module.to_q(tokens)]
    return module.to_out(torch.stack(mixed)).view_as(x)


def test_place_matters() -> None:
    """Unlike MSA, it does not commute with a permutation: each place has weights of its own."""
    torch.manual_seed(0)
    module = LINFORMER.build(8, 2, Grid(2, 3), impl="fused", k=4).double()
    x = torch.randn(1, 2, 3, 8, dtype=torch.float64)
    with torch.inference_mode():
        assert (module(x.flip(2)) - module(x).flip(2)).abs().amax() > 1e-3


def test_is_fixed_to_its_map() -> None:
    """A map of another size is an error, never a wrong result."""
    module = LINFORMER.build(8, 2, Grid(4, 4), impl="fused", k=4)
    with pytest.raises(RuntimeError):
        module(torch.randn(1, 4, 3, 8))
