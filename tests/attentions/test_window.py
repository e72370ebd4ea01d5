"""Window attention, W-MSA (arXiv 2103.14030)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from attentions._windows import merge, partition
from tests.attentions.published import row

PARAMS: dict[str, list[Any]] = {
    "window_size": [1, 2, 3, 7],
    "relative_position_bias": [True, False],
    "qkv_bias": [True, False],
}

WINDOW = attentions.load("window")


def test_published_row() -> None:
    """2.36 M parameters and 477.17 M MACs at window 7, without the relative bias."""
    assert row("window", window_size=7, relative_position_bias=False) == ("2.36", "477.17")


def test_parameters() -> None:
    """The names, shapes and buffer of the authors' WindowAttention."""
    module = WINDOW.build(8, 2, Grid(6, 6), impl="fused", window_size=3)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    assert shapes == {
        "relative_position_bias_table": (25, 2),
        "relative_position_index": (9, 9),
        "qkv.weight": (24, 8),
        "qkv.bias": (24,),
        "proj.weight": (8, 8),
        "proj.bias": (8,),
    }


def test_slow_loop() -> None:
    """softmax(Q K^T / sqrt(d) + B) V over the tokens of the own window, query by query."""
    torch.manual_seed(0)
    module = WINDOW.build(12, 3, Grid(5, 7), impl="eager", window_size=3).double()
    torch.nn.init.normal_(module.relative_position_bias_table)  # type: ignore[arg-type]  # stubs type buffers as Module
    x = torch.randn(1, 5, 7, 12, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, 3, 3), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, size: int, num_heads: int) -> Tensor:
    height, width, dim = x.shape[1:]
    padded = F.pad(x[0], (0, 0, 0, -width % size, 0, -height % size))
    table = module.relative_position_bias_table.view(2 * size - 1, 2 * size - 1, num_heads)
    head_dim = dim // num_heads
    out = torch.empty_like(x)
    for i in range(height):
        for j in range(width):
            q = module.qkv(padded[i, j])[:dim].view(num_heads, head_dim)
            mixed = torch.empty(num_heads, head_dim, dtype=x.dtype)
            for head in range(num_heads):
                scores, values = [], []
                for m in range(i // size * size, i // size * size + size):
                    for n in range(j // size * size, j // size * size + size):
                        _, k, v = module.qkv(padded[m, n]).view(3, num_heads, head_dim)[:, head]
                        bias = table[i - m + size - 1, j - n + size - 1, head]
                        scores.append(q[head] @ k / head_dim**0.5 + bias)
                        values.append(v)
                mixed[head] = torch.stack(scores).softmax(0) @ torch.stack(values)
            out[0, i, j] = module.proj(mixed.flatten())
    return out


@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(1, 10),
    width=st.integers(1, 10),
    window_size=st.integers(1, 5),
    data=st.data(),
)
def test_nothing_crosses_a_border(
    height: int, width: int, window_size: int, data: st.DataObject
) -> None:
    """A perturbed token moves the whole of its own window, and nothing else."""
    module = WINDOW.build(8, 2, Grid(height, width), impl="fused", window_size=window_size).double()
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, row, column] += 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1)
    own = torch.zeros(height, width, dtype=torch.bool)
    tall, wide = min(window_size, height), min(window_size, width)
    top, left = row // tall * tall, column // wide * wide
    own[top : top + tall, left : left + wide] = True
    assert (change[own] > 0).all()
    assert (change[~own] == 0).all()


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 7), width=st.integers(1, 7))
def test_window_as_large_as_the_map_is_msa(height: int, width: int) -> None:
    """window >= map: window = msa, with the same weights and the same MACs."""
    grid = Grid(height, width)
    window = WINDOW.build(
        8, 2, grid, impl="eager", window_size=7, relative_position_bias=False
    ).double()
    msa = attentions.load("msa").build(8, 2, grid, impl="eager").double()
    msa.load_state_dict(window.state_dict())
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(window(x), msa(x), rtol=0, atol=1e-12)
    counts = [attentions.load(name).macs for name in ("window", "msa")]
    assert len({count(8, 2, grid) for count in counts if count}) == 1


@settings(deadline=None, max_examples=20)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    tall=st.integers(1, 4),
    wide=st.integers(1, 4),
)
def test_merge_undoes_partition(rows: int, columns: int, tall: int, wide: int) -> None:
    """Cutting into windows and merging them gives the map back; a window is a rectangle of it."""
    grid = Grid(rows * tall, columns * wide)
    x = torch.randn(2, grid.height, grid.width, 3)
    windows = partition(x, tall, wide)
    assert torch.equal(merge(windows, tall, wide, grid), x)
    last = x[:, -tall:, -wide:].flatten(1, 2)
    assert torch.equal(windows[:, -1], last)


def test_padding_is_attended_to() -> None:
    """As in the authors' code, a padded token is a key: it carries the bias of qkv."""
    torch.manual_seed(0)
    module = WINDOW.build(8, 2, Grid(3, 5), impl="fused", window_size=2).double()
    x = torch.randn(1, 3, 5, 8, dtype=torch.float64)
    with torch.inference_mode():
        padded = module(F.pad(x, (0, 0, 0, 1, 0, 1)))
        torch.testing.assert_close(module(x), padded[:, :3, :5], rtol=0, atol=1e-12)


def test_unsupported() -> None:
    """A window has at least one token."""
    reason = WINDOW.reason_against(8, 2, Grid(4, 4), window_size=0)
    assert reason == "window_size must be at least 1, got 0"
