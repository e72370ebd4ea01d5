"""Linformer (arXiv 2006.04768)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.published import row

PARAMS: dict[str, list[Any]] = {
    "k": [1, 5, 16, 40],
    "one_kv_head": [True, False],
    "share_kv": [True, False],
    "qkv_bias": [True, False],
}

LINFORMER = attentions.load("linformer")


def macs(dim: int, heads: int, grid: Grid, **params: Any) -> int:
    assert LINFORMER.macs is not None
    return LINFORMER.macs(dim, heads, grid, **params)


def test_published_row() -> None:
    """2.46 M parameters and 616.56 M MACs: the published figure is k = 256."""
    assert row("linformer", k=256, qkv_bias=True) == ("2.46", "616.56")
    assert row("linformer", k=256) == ("2.46", "616.56")


def test_committed_script() -> None:
    """The script beside the published table says k = 128, and prints 2.41 M and 539.50 M.

    It is not what the table shows. Its MACs are 539.49 M: fvcore reads the cost of an einsum in
    NumPy's report, which prints it with four digits, and the script has four of 38.54 M flops.
    """
    assert row("linformer", k=128, qkv_bias=True) == ("2.41", "539.49")
    linear = 4 * 196 * 768**2
    for k, printed in ((128, "539.50"), (256, "616.56")):
        product = 196 * k * 768
        assert macs(768, 12, Grid(14, 14), k=k) == linear + 4 * product
        in_report = float(f"{2 * product:.3e}") // 2
        assert f"{(linear + 4 * in_report) / 1e6:.2f}" == printed


def test_parameters() -> None:
    """The names and shapes of lucidrains' LinformerSelfAttention."""

    def shapes(**params: Any) -> dict[str, tuple[int, ...]]:
        state = LINFORMER.build(8, 2, Grid(2, 3), impl="eager", k=5, **params).state_dict()
        return {key: tuple(value.shape) for key, value in state.items()}

    queries = {"to_q.weight": (8, 8), "to_out.weight": (8, 8), "to_out.bias": (8,)}
    keys = {"to_k.weight": (8, 8), "proj_k": (6, 5)}
    values = {"to_v.weight": (8, 8), "proj_v": (6, 5)}
    assert shapes() == queries | keys | values
    assert shapes(share_kv=True) == queries | keys
    narrow = {"to_k.weight": (4, 8), "to_v.weight": (4, 8)}
    assert shapes(one_kv_head=True) == queries | keys | values | narrow


def test_parameters_grow_with_the_map() -> None:
    """2 k more for each token more."""

    def count(grid: Grid) -> int:
        module = LINFORMER.build(8, 2, grid, impl="eager", k=16)
        return sum(parameter.numel() for parameter in module.parameters())

    assert count(Grid(7, 6)) - count(Grid(5, 6)) == 2 * 16 * 12


@pytest.mark.parametrize("one_kv_head", [False, True])
@pytest.mark.parametrize("share_kv", [False, True])
def test_slow_loop(one_kv_head: bool, share_kv: bool) -> None:
    """Keys and values summed over the tokens, weight by weight; query by query."""
    torch.manual_seed(0)
    params = {"k": 5, "one_kv_head": one_kv_head, "share_kv": share_kv, "qkv_bias": True}
    module = LINFORMER.build(12, 3, Grid(3, 4), impl="eager", **params).double()
    x = torch.randn(1, 3, 4, 12, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor) -> Tensor:
    tokens = x.flatten(0, 2)
    keys = summed(module.to_k(tokens), module.proj_k)
    values = keys if module.share_kv else summed(module.to_v(tokens), module.proj_v)
    out = torch.empty_like(tokens)
    for i, token in enumerate(tokens):
        mixed = []
        for head, q in enumerate(module.to_q(token).split(4)):
            start = 0 if keys.shape[1] == 4 else 4 * head
            scores = torch.stack([q @ key[start : start + 4] / 2 for key in keys])
            mixed.append(scores.softmax(0) @ values[:, start : start + 4])
        out[i] = module.to_out(torch.cat(mixed))
    return out.view_as(x)


def summed(tokens: Tensor, projection: Tensor) -> Tensor:
    out = torch.zeros(projection.shape[1], tokens.shape[1], dtype=tokens.dtype)
    for token, weights in zip(tokens, projection, strict=True):
        for j, weight in enumerate(weights):
            out[j] += weight * token
    return out


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_identity_projections_are_msa(impl: str) -> None:
    """linformer with k = N and identities for projections = msa; 2 N^2 C MACs more."""
    torch.manual_seed(0)
    grid = Grid(4, 5)
    linformer = LINFORMER.build(12, 3, grid, impl=impl, k=20, qkv_bias=True).double()
    msa = attentions.load("msa").build(12, 3, grid, impl="eager").double()
    state = linformer.state_dict()
    for name in ("proj_k", "proj_v"):
        state[name].copy_(torch.eye(20))
    msa.load_state_dict(
        {
            "qkv.weight": torch.cat([state[f"to_{part}.weight"] for part in "qkv"]),
            "qkv.bias": torch.cat([state[f"to_{part}.bias"] for part in "qkv"]),
            "proj.weight": state["to_out.weight"],
            "proj.bias": state["to_out.bias"],
        }
    )
    x = torch.randn(2, 4, 5, 12, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(linformer(x), msa(x), rtol=0, atol=1e-12)
    msa_macs = attentions.load("msa").macs
    assert msa_macs is not None
    assert macs(12, 3, grid, k=20) == msa_macs(12, 3, grid) + 2 * 20**2 * 12


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


def test_unsupported() -> None:
    """No combination of tokens is no key."""
    assert LINFORMER.reason_against(8, 2, Grid(3, 3), k=0) == "k must be at least 1, got 0"
