"""Twins LSA, locally-grouped self-attention (arXiv 2104.13840)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid

PARAMS: dict[str, list[Any]] = {"window_size": [2, 3, 7], "qkv_bias": [True, False]}

LSA = attentions.load("twins_lsa")


def test_parameters() -> None:
    """The names and shapes of the authors' GroupAttention."""
    module = LSA.build(8, 2, Grid(7, 7), impl="fused")
    assert {key: tuple(value.shape) for key, value in module.state_dict().items()} == {
        "qkv.weight": (24, 8),
        "qkv.bias": (24,),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
    }
    assert "qkv.bias" not in LSA.build(8, 2, Grid(7, 7), impl="fused", qkv_bias=False).state_dict()


def test_slow_loop() -> None:
    """Query by query over the tokens of its own window of the zero-padded map."""
    torch.manual_seed(0)
    module = LSA.build(8, 2, Grid(4, 5), impl="eager", window_size=3).double()
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, 2), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, num_heads: int) -> Tensor:
    size, dim = module.window[0], x.shape[3]
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            window = torch.zeros(size, size, dim, dtype=x.dtype)
            for row in range(size):
                for column in range(size):
                    m, n = i // size * size + row, j // size * size + column
                    if m < x.shape[1] and n < x.shape[2]:
                        window[row, column] = x[0, m, n]
            q = module.qkv(x[0, i, j])[:dim].view(num_heads, -1)
            _, k, v = module.qkv(window).view(size * size, 3, num_heads, -1).unbind(1)
            scores = torch.einsum("hd,mhd->hm", q, k) / (dim // num_heads) ** 0.5
            mixed = torch.einsum("hm,mhd->hd", scores.softmax(-1), v)
            out[0, i, j] = module.proj(mixed.flatten())
    return out


@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(1, 10),
    width=st.integers(1, 10),
    window_size=st.integers(2, 5),
    data=st.data(),
)
def test_nothing_crosses_a_border(
    height: int, width: int, window_size: int, data: st.DataObject
) -> None:
    """A perturbed token moves the whole of its own window, and nothing else."""
    module = LSA.build(8, 2, Grid(height, width), impl="fused", window_size=window_size).double()
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, row, column] += 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1)
    own = torch.zeros(height, width, dtype=torch.bool)
    top, left = row // window_size * window_size, column // window_size * window_size
    own[top : top + window_size, left : left + window_size] = True
    assert (change[own] > 0).all()
    assert (change[~own] == 0).all()


@settings(deadline=None, max_examples=20)
@given(height=st.integers(3, 10), width=st.integers(3, 10))
def test_is_window_attention_without_bias(height: int, width: int) -> None:
    """twins_lsa = window without relative bias, on maps no smaller than the window."""
    grid, params = Grid(height, width), {"window_size": 3}
    lsa = LSA.build(8, 2, grid, impl="fused", **params).double()
    window = attentions.load("window").build(
        8, 2, grid, impl="fused", relative_position_bias=False, **params
    )
    window.double().load_state_dict(lsa.state_dict())
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(lsa(x), window(x), rtol=0, atol=1e-12)


def test_window_as_large_as_the_map_is_msa() -> None:
    """One window is all tokens."""
    torch.manual_seed(0)
    grid = Grid(7, 7)
    lsa = LSA.build(8, 2, grid, impl="eager", window_size=7).double()
    msa = attentions.load("msa").build(8, 2, grid, impl="eager").double()
    msa.load_state_dict(lsa.state_dict())
    x = torch.randn(2, 7, 7, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(lsa(x), msa(x), rtol=0, atol=1e-12)


def test_small_map_is_padded_to_a_window() -> None:
    """As in the authors' detection code: the padded tokens are keys."""
    torch.manual_seed(0)
    module = LSA.build(8, 2, Grid(3, 5), impl="fused", window_size=7).double()
    x = torch.randn(1, 3, 5, 8, dtype=torch.float64)
    with torch.inference_mode():
        padded = module(F.pad(x, (0, 0, 0, 2, 0, 4)))
        torch.testing.assert_close(module(x), padded[:, :3, :5], rtol=0, atol=1e-12)
    assert LSA.computed is not None
    assert LSA.computed(Grid(3, 5)) == Grid(7, 7)


def test_unsupported() -> None:
    """The authors' window of 1 means GSA."""
    reason = LSA.reason_against(8, 2, Grid(4, 4), window_size=1)
    assert reason == "window_size must be at least 2 (1 stands for GSA), got 1"
