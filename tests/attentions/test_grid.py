"""Grid attention (arXiv 2204.01697)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.by_hand import attend
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "grid_size": [1, 2, 3, 7],
    "relative_position_bias": [True, False],
    "qkv_bias": [True, False],
}
STATES = [  # timm's maxvit_*_tf models
    (
        case("grid", 8, 2, 6, 6, grid_size=3),
        layers({"qkv": (24, 8), "proj": (8, 8)})
        | {"rel_pos.relative_position_bias_table": (2, 5, 5)},
    )
]
LOOPS = [
    case("grid", 8, 2, height, width, grid_size=3) for height, width in ((6, 9), (4, 5), (2, 7))
]
REFUSED = [(case("grid", 8, 2, 4, 4, grid_size=0), "grid_size must be at least 1, got 0")]

GRID = attentions.load("grid")


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The tokens of its own grid, spread over the map, each a whole step away; and no other."""
    masks = []
    for side, index in ((draw.grid.height, row), (draw.grid.width, column)):
        step = -(-side // min(draw.params["grid_size"], side))
        masks.append(torch.arange(side) % step == index % step)
    return masks[0][:, None] & masks[1]


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Query by query over the tokens a whole step away, with the bias of key less query."""
    size, table = draw.params["grid_size"], module.rel_pos.relative_position_bias_table
    tall, wide = min(size, x.shape[1]), min(size, x.shape[2])
    padded = F.pad(x[0], (0, 0, 0, -x.shape[2] % wide, 0, -x.shape[1] % tall))
    down, right = padded.shape[0] // tall, padded.shape[1] // wide
    q, k, v = module.qkv(padded).chunk(3, dim=-1)
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            keys, values = (
                part[i % down :: down, j % right :: right].flatten(0, 1) for part in (k, v)
            )
            rows = torch.arange(tall)[:, None] - i // down + tall - 1
            columns = torch.arange(wide) - j // right + wide - 1
            bias = table[:, rows, columns].flatten(1).T
            out[0, i, j] = attend(q[i, j], keys, values, draw.num_heads, bias)
    return module.proj(out)


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 4), columns=st.integers(1, 4), grid_size=st.integers(1, 4))
def test_is_window_attention_under_a_transpose(rows: int, columns: int, grid_size: int) -> None:
    """Gather each grid into a window: window attention there is grid attention here.

    Swin's table is the same turned around, since it is indexed by query less key.
    """
    height, width = rows * grid_size, columns * grid_size
    grid = Grid(height, width)
    here: Any = GRID.build(8, 2, grid, impl="eager", grid_size=grid_size).double()
    there = attentions.load("window").build(8, 2, grid, impl="eager", window_size=grid_size)
    state = {key: value for key, value in here.state_dict().items() if "rel_pos" not in key}
    table = here.rel_pos.relative_position_bias_table
    state["relative_position_bias_table"] = table.flip(1, 2).flatten(1).T
    there.double().load_state_dict(state, strict=False)
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    with torch.inference_mode():
        gathered = exchange(x, grid_size, rows, grid_size, columns)
        expected = exchange(there(gathered), rows, grid_size, columns, grid_size)
        torch.testing.assert_close(here(x), expected, rtol=0, atol=1e-12)


def exchange(x: Tensor, *sides: int) -> Tensor:
    """Row a b + c becomes row c a' + a, columns likewise; `sides` are (a', b) of each."""
    cut = x.unflatten(2, sides[2:]).unflatten(1, sides[:2])
    return cut.transpose(3, 4).transpose(1, 2).reshape(x.shape)
