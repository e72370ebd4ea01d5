"""Focal attention (arXiv 2107.00641)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.draws import Draw, case, layers, moved_by

PARAMS: dict[str, list[Any]] = {
    "window_size": [2, 4, 5, 7],
    "expand_size": [0, 1, 2],
    "focal_level": [1, 2, 3],
    "focal_window": [1, 3, 5],
    "pool_method": ["fc", "conv", "mean", "max", "none"],
    "qkv_bias": [True, False],
}
_ROW = {"window_size": 7, "expand_size": 3, "focal_level": 2, "focal_window": 3}
PUBLISHED = _ROW | {"pool_method": "fc"}, "2.44", "526.85"
COUNTS = [(case("focal", 768, 12, 14, 14), None, 526_851_072)]
_OWN = layers({"qkv": (24, 8), "proj": (8, 8)}) | {
    "relative_position_bias_table": (49, 2),
    "relative_position_index": (16, 16),
}
STATES = [  # the authors' WindowAttention and pool_layers, buffers included
    (
        case("focal", 8, 2, 8, 12, window_size=4, expand_size=1, focal_level=3, focal_window=3),
        _OWN
        | layers({"pool_layers.0": (1, 16), "pool_layers.1": (1, 4)})
        | {
            "relative_position_bias_table_to_neighbors": (1, 2, 16, 28),
            "valid_ind_rolled": (28,),
            "relative_position_bias_table_to_windows.0": (2, 36),
            "relative_position_index_0": (16, 9),
            "relative_position_bias_table_to_windows.1": (2, 49),
            "relative_position_index_1": (16, 16),
            "valid_ind_unfold_1": (16,),
        },
    ),
    # No expansion, no pooling: a window attention. On a short map the window is cut to it.
    (case("focal", 8, 2, 9, 9, window_size=4, expand_size=0, focal_level=1), _OWN),
    (case("focal", 8, 2, 9, 9, window_size=4, expand_size=0, pool_method="none"), _OWN),
    (case("focal", 8, 2, 4, 9, focal_level=1), _OWN),
    (
        case("focal", 8, 2, 4, 9, focal_window=1, pool_method="conv"),
        _OWN
        | layers({"pool_layers.0": (8, 1, 4, 4)})
        | {
            "relative_position_bias_table_to_windows.0": (2, 16),
            "relative_position_index_0": (16, 1),
        },
    ),
]
# On a padded map and on one that the window is cut to; then quarters of windows, which cover a
# window of 4, and leave out edges of the map at 5.
LOOPS = [
    case("focal", 8, 2, *grid, window_size=3, expand_size=1, focal_window=3, pool_method=method)
    for grid in ((6, 5), (2, 7))
    for method in ("fc", "conv", "mean", "max")
] + [
    case("focal", 8, 2, 6, 9, window_size=size, expand_size=2, focal_level=3, focal_window=1)
    for size in (4, 5)
]
REFUSED = [
    (case("focal", 8, 2, 14, 14, window_size=0), "window_size must be at least 1, got 0"),
    (case("focal", 8, 2, 14, 14, expand_size=8), "expand_size must be between 0 and 7, got 8"),
    (case("focal", 8, 2, 14, 14, focal_level=0), "focal_level must be at least 1, got 0"),
    (
        case("focal", 8, 2, 14, 14, focal_window=2),
        "focal_window must be an odd number from 1 on, got 2",
    ),
    (
        case("focal", 8, 2, 14, 14, pool_method="avg"),
        "pool_method is one of fc, conv, mean, max, none, got 'avg'",
    ),
    (
        case("focal", 8, 2, 1, 9, focal_level=3),
        "3 levels cut a window into 2 x 2 parts, it is 1 wide",
    ),
    (case("focal", 8, 2, 1, 9, focal_level=3, pool_method="none"), None),
    (case("focal", 8, 2, 1, 1), None),
]

FOCAL = attentions.load("focal")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Two heads of four channels; keys in the order window, four moved windows, pooled levels."""
    w = module.window
    height, width = (-(-size // w) * w for size in x.shape[1:3])
    padded = torch.zeros(height, width, 8, dtype=x.dtype)
    padded[: x.shape[1], : x.shape[2]] = x[0]
    pyramid = [pooled(module, padded, level) for level in range(module.pooled_levels)]
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            keys = fine_keys(module, padded, i, j)
            for level, map_ in enumerate(pyramid):
                keys += pooled_keys(module, map_, level, i, j)
            q = module.qkv(padded[i, j])[:8]
            kv = [
                torch.zeros(16).double() if key is None else module.qkv(key)[8:] for key, _ in keys
            ]
            k, v = torch.stack(kv).chunk(2, dim=-1)
            biases = torch.stack([bias for _, bias in keys])
            for head in (0, 1):
                part = slice(4 * head, 4 * head + 4)
                scores = k[:, part] @ q[part] / 2 + biases[:, head]
                out[0, i, j, part] = scores.softmax(0) @ v[:, part]
    return module.proj(out)


# A key's token before its projection, or None outside the map, and its bias for each head.
Key = tuple[Tensor | None, Tensor]


def fine_keys(module: Any, padded: Tensor, i: int, j: int) -> list[Key]:
    """The window of query (i, j), then what lies around it, wrapping round the map."""
    w, e = module.window, module.expand
    top, left, query = i // w * w, j // w * w, i % w * w + j % w
    keys: list[Key] = []
    for r in range(w):
        for c in range(w):
            entry = (i % w - r + w - 1) * (2 * w - 1) + j % w - c + w - 1
            keys.append((padded[top + r, left + c], module.relative_position_bias_table[entry]))
    around = [
        (r, c)
        for down, right in ((e, e), (e, -e), (-e, e), (-e, -e))
        for r in range(down, w + down)
        for c in range(right, w + right)
        if not (0 <= r < w and 0 <= c < w)
    ]
    for n, (r, c) in enumerate(around):
        token = padded[(top + r) % padded.shape[0], (left + c) % padded.shape[1]]
        keys.append((token, module.relative_position_bias_table_to_neighbors[0, :, query, n]))
    return keys


def pooled(module: Any, padded: Tensor, level: int) -> Tensor:
    """The map with parts of windows pooled to one token, trimmed evenly to whole parts."""
    w, part = module.window, module.window // 2**level
    rows, columns = (size // w * 2**level for size in padded.shape[:2])
    top, left = (padded.shape[0] - rows * part) // 2, (padded.shape[1] - columns * part) // 2
    out = torch.empty(rows, columns, 8, dtype=padded.dtype)
    for r in range(rows):
        for c in range(columns):
            corner = top + r * part, left + c * part
            tokens = padded[corner[0] : corner[0] + part, corner[1] : corner[1] + part]
            out[r, c] = pool(module, tokens, level)
    return out


def pool(module: Any, tokens: Tensor, level: int) -> Tensor:
    if module.pool_method == "mean":
        return tokens.mean((0, 1))
    if module.pool_method == "max":
        return tokens.amax((0, 1))
    weight, bias = module.pool_layers[level].weight, module.pool_layers[level].bias
    if module.pool_method == "fc":
        return weight[0] @ tokens.flatten(0, 1) + bias
    return (weight[:, 0].permute(1, 2, 0) * tokens).sum((0, 1)) + bias


def pooled_keys(module: Any, map_: Tensor, level: int, i: int, j: int) -> list[Key]:
    """The pooled tokens of the window of query (i, j), and focal_window // 2 beyond them."""
    w, reach, parts = module.window, module.focal_window // 2, 2**level
    span = range(-reach, parts + reach)
    keys: list[Key] = []
    for a, r in enumerate(span):
        for b, c in enumerate(span):
            side = w + len(span) - 1
            entry = (i % w - a + len(span) - 1) * side + j % w - b + len(span) - 1
            bias = module.relative_position_bias_table_to_windows[level][:, entry]
            row_, column = i // w * parts + r, j // w * parts + c
            if 0 <= row_ < map_.shape[0] and 0 <= column < map_.shape[1]:
                keys.append((map_[row_, column], bias))
            else:
                keys.append((None, bias - 100))
    return keys


@settings(deadline=None, max_examples=20)
@given(
    rows=st.integers(2, 5),
    columns=st.integers(2, 5),
    expand=st.integers(0, 1),
    focal_window=st.sampled_from([1, 3]),
    data=st.data(),
)
def test_receptive_field(
    rows: int, columns: int, expand: int, focal_window: int, data: st.DataObject
) -> None:
    """A token is seen from its window, from windows within expand_size of it, round the map's edges
    too, and pooled from those within focal_window // 2 windows; from nowhere else.
    """
    grid, w = Grid(3 * rows, 3 * columns), 3
    params = {"window_size": w, "expand_size": expand, "focal_window": focal_window}
    module = Draw("focal", 8, 2, grid, params).exact("fused")
    i, j = data.draw(st.integers(0, grid.height - 1)), data.draw(st.integers(0, grid.width - 1))
    x = torch.randn(1, grid.height, grid.width, 8, dtype=torch.float64)
    expected = torch.zeros(grid.height, grid.width, dtype=torch.bool)
    for r in range(rows):
        for c in range(columns):
            fine = within(i, r * w, w, expand, grid.height) and within(
                j, c * w, w, expand, grid.width
            )
            far = max(abs(i // w - r), abs(j // w - c)) <= focal_window // 2
            expected[r * w : r * w + w, c * w : c * w + w] = fine or far
    assert torch.equal(moved_by(module, x, i, j), expected)


def within(place: int, start: int, window: int, expand: int, size: int) -> bool:
    """Whether a row or column is at most `expand` from a window, on a circle of `size`."""
    return (place - start + expand) % size < window + 2 * expand


def test_tokens_between_two_corners_are_keys_twice() -> None:
    """Window 7, expansion 3: 132 keys for 120 tokens around; window 4, expansion 2: 48 for 48."""
    for window, expand, keys, tokens in ((7, 3, 132, 120), (4, 2, 48, 48), (4, 3, 60, 60)):
        module: Any = FOCAL.build(
            8, 2, Grid(40, 40), impl="fused", window_size=window, expand_size=expand, focal_level=1
        )
        inner = module.key_index[:, 22 if window == 4 else 7]
        assert len(inner) - window**2 == keys
        assert len(inner.unique()) - window**2 == tokens


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_a_call_leaves_no_trace(impl: str) -> None:
    """Maps of other sizes between two calls change nothing: no state is written in forward."""
    torch.manual_seed(0)
    module = FOCAL.build(8, 2, Grid(14, 14), impl=impl).double()
    x = torch.randn(1, 14, 14, 8, dtype=torch.float64)
    with torch.inference_mode():
        first = module(x)
        module(x[:, :5, :3])
        other = module(torch.cat((x, x), dim=1))
        assert torch.equal(module(x), first)
    built = FOCAL.build(8, 2, Grid(28, 14), impl=impl).double()
    built.load_state_dict(module.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(built(torch.cat((x, x), dim=1)), other, rtol=0, atol=1e-12)
