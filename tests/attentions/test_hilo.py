"""HiLo attention (arXiv 2205.13213)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.published import row

PARAMS: dict[str, list[Any]] = {
    "window_size": [1, 2, 3, 5],
    "alpha": [0.0, 0.3, 0.5, 0.9, 1.0],
    "qkv_bias": [True, False],
}

HILO = attentions.load("hilo")


def macs(dim: int, heads: int, grid: Grid, **params: Any) -> int:
    assert HILO.macs is not None
    return HILO.macs(dim, heads, grid, **params)


def test_published_row() -> None:
    """2.20 M parameters and 298.30 M MACs at window 2, alpha 0.9."""
    assert row("hilo", window_size=2, alpha=0.9) == ("2.20", "298.30")


def test_exact_counts() -> None:
    """The two counts that are known to the last digit, and the parameters of one."""
    assert macs(384, 12, Grid(14, 14), window_size=2, alpha=0.5) == 83_467_776
    assert macs(768, 12, Grid(14, 14), window_size=2, alpha=0.9) == 298_296_320
    module = HILO.build(768, 12, Grid(14, 14), impl="eager", window_size=2, alpha=0.9)
    assert sum(parameter.numel() for parameter in module.parameters()) == 2_198_528


def test_layer_of_a_detection_backbone() -> None:
    """One stage-3 layer at 50 x 80 and 384 channels: 4.02 and 2.03 GMACs at windows 2 and 4."""
    grid = Grid(50, 80)
    assert f"{macs(384, 12, grid, window_size=2) / 1e9:.2f}" == "4.02"
    assert f"{macs(384, 12, grid, window_size=4) / 1e9:.2f}" == "2.03"


@pytest.mark.parametrize(
    ("heads", "alpha", "split"),
    [
        (12, 0.9, (2, 10)),
        (16, 0.9, (2, 14)),
        (12, 0.5, (6, 6)),
        (12, 0.0, (12, 0)),
        (3, 1.0, (0, 3)),
    ],
)
def test_heads_are_split_by_alpha(heads: int, alpha: float, split: tuple[int, int]) -> None:
    """int(heads x alpha) heads are Lo-Fi, the rest Hi-Fi."""
    module: Any = HILO.build(heads * 4, heads, Grid(4, 4), impl="fused", alpha=alpha)
    assert (module.h_heads, module.l_heads) == split


def test_parameters() -> None:
    """The names and shapes of the authors' module; a share without heads has no parameters."""

    def shapes(**params: Any) -> dict[str, tuple[int, ...]]:
        module = HILO.build(12, 3, Grid(4, 4), impl="fused", **params)
        return {key: tuple(value.shape) for key, value in module.state_dict().items()}

    high = {"h_qkv.weight": (36, 12), "h_qkv.bias": (36,), "h_proj.weight": (12, 12)}
    high |= {"h_proj.bias": (12,)}
    low = {"l_q.weight": (12, 12), "l_q.bias": (12,), "l_kv.weight": (24, 12), "l_kv.bias": (24,)}
    low |= {"l_proj.weight": (12, 12), "l_proj.bias": (12,)}
    assert shapes(alpha=0.0) == high
    assert shapes(alpha=1.0) == low
    assert shapes(window_size=1, alpha=0.0) == low
    assert shapes(alpha=0.5) == {
        "h_qkv.weight": (24, 12),
        "h_qkv.bias": (24,),
        "h_proj.weight": (8, 8),
        "h_proj.bias": (8,),
        "l_q.weight": (4, 12),
        "l_q.bias": (4,),
        "l_kv.weight": (8, 12),
        "l_kv.bias": (8,),
        "l_proj.weight": (4, 4),
        "l_proj.bias": (4,),
    }


@pytest.mark.parametrize("window_size", [2, 3])
def test_slow_loop(window_size: int) -> None:
    """Both parts, written head by head and query by query on the zero-padded map."""
    torch.manual_seed(0)
    grid = Grid(5, 4)
    params = {"window_size": window_size, "alpha": 0.5}
    module = HILO.build(12, 3, grid, impl="eager", **params).double()
    x = torch.randn(1, 5, 4, 12, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, 4), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, head_dim: int) -> Tensor:
    s = module.window_size
    height, width = -(-x.shape[1] // s) * s, -(-x.shape[2] // s) * s
    padded = torch.zeros(height, width, x.shape[3], dtype=x.dtype)
    padded[: x.shape[1], : x.shape[2]] = x[0]
    pooled = [
        padded[top : top + s, left : left + s].mean((0, 1))
        for top in range(0, height, s)
        for left in range(0, width, s)
    ]
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            token = padded[i, j]
            top, left = i // s * s, j // s * s
            window = padded[top : top + s, left : left + s].flatten(0, 1)
            q, _, _ = module.h_qkv(token).chunk(3)
            _, k, v = module.h_qkv(window).chunk(3, dim=-1)
            high = module.h_proj(look(q, k, v, head_dim))
            k, v = module.l_kv(torch.stack(pooled)).chunk(2, dim=-1)
            low = module.l_proj(look(module.l_q(token), k, v, head_dim))
            out[0, i, j] = torch.cat((high, low))
    return out


def look(q: Tensor, k: Tensor, v: Tensor, head_dim: int) -> Tensor:
    """One query over its keys, head by head."""
    parts = zip(q.split(head_dim), k.split(head_dim, -1), v.split(head_dim, -1), strict=True)
    return torch.cat([(k @ q / head_dim**0.5).softmax(0) @ v for q, k, v in parts])


@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    window_size=st.integers(2, 4),
    data=st.data(),
)
def test_high_frequencies_stay_in_their_window(
    height: int, width: int, window_size: int, data: st.DataObject
) -> None:
    """Hi-Fi's output moves in the whole window of a perturbed token, and nowhere else."""
    grid = Grid(height, width)
    module = HILO.build(16, 4, grid, impl="fused", window_size=window_size, alpha=0.5).double()
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    x = torch.randn(1, height, width, 16, dtype=torch.float64)
    moved = x.clone()
    moved[0, row, column] += 1
    with torch.inference_mode():
        high = (module(moved) - module(x))[0, :, :, :8].abs().amax(-1)
    own = torch.zeros(height, width, dtype=torch.bool)
    top, left = row // window_size * window_size, column // window_size * window_size
    own[top : top + window_size, left : left + window_size] = True
    assert (high[own] > 0).all()
    assert (high[~own] == 0).all()


def test_low_frequencies_are_all_that_lofi_sees_of_other_tokens() -> None:
    """A change that leaves a window's mean alone reaches Lo-Fi's output at its own tokens only."""
    torch.manual_seed(0)
    module = HILO.build(16, 4, Grid(6, 6), impl="fused", alpha=1.0).double()
    x = torch.randn(1, 6, 6, 16, dtype=torch.float64)
    moved = x.clone()
    moved[0, 2, 2] += 1
    moved[0, 3, 3] -= 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1) > 1e-9
    assert change.nonzero().tolist() == [[2, 2], [3, 3]]


@pytest.mark.parametrize("alpha", [0.0, 0.9])
def test_window_one_is_msa(alpha: float) -> None:
    """hilo(window 1) = msa, whatever alpha says."""
    torch.manual_seed(0)
    grid = Grid(4, 5)
    hilo = HILO.build(12, 3, grid, impl="eager", window_size=1, alpha=alpha).double()
    msa = attentions.load("msa").build(12, 3, grid, impl="eager").double()
    state = hilo.state_dict()
    msa.load_state_dict(
        {
            "qkv.weight": torch.cat((state["l_q.weight"], state["l_kv.weight"])),
            "qkv.bias": torch.cat((state["l_q.bias"], state["l_kv.bias"])),
            "proj.weight": state["l_proj.weight"],
            "proj.bias": state["l_proj.bias"],
        }
    )
    x = torch.randn(2, 4, 5, 12, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(hilo(x), msa(x), rtol=0, atol=1e-12)
    msa_macs = attentions.load("msa").macs
    assert msa_macs is not None
    assert msa_macs(12, 3, grid) == macs(12, 3, grid, window_size=1, alpha=alpha)


def test_hifi_alone_is_window_attention() -> None:
    """hilo(alpha 0) = window without relative bias."""
    torch.manual_seed(0)
    grid = Grid(7, 5)
    hilo = HILO.build(12, 3, grid, impl="eager", window_size=3, alpha=0.0).double()
    window = attentions.load("window").build(
        12, 3, grid, impl="eager", window_size=3, relative_position_bias=False
    )
    state = {key.removeprefix("h_"): value for key, value in hilo.state_dict().items()}
    window.double().load_state_dict(state)
    x = torch.randn(2, 7, 5, 12, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(hilo(x), window(x), rtol=0, atol=1e-12)


def test_padding_is_zeros_on_the_right_and_at_the_bottom() -> None:
    """A map that does not divide gives what its padded map gives, cropped."""
    torch.manual_seed(0)
    module = HILO.build(16, 4, Grid(5, 7), impl="fused", window_size=4, alpha=0.5).double()
    x = torch.randn(2, 5, 7, 16, dtype=torch.float64)
    with torch.inference_mode():
        padded = module(F.pad(x, (0, 0, 0, 1, 0, 3)))
        torch.testing.assert_close(module(x), padded[:, :5, :7], rtol=0, atol=1e-12)


def test_unsupported() -> None:
    """Settings outside their range are answered in words."""
    grid = Grid(4, 4)
    assert (
        HILO.reason_against(16, 4, grid, window_size=0) == "window_size must be at least 1, got 0"
    )
    reason = HILO.reason_against(16, 4, grid, alpha=1.1)
    assert reason == "alpha is a share of the heads, between 0 and 1, got 1.1"
