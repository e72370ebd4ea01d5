"""SS2D, the selective scan in two dimensions (arXiv 2401.10166)."""

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
from tests.attentions.by_hand import depthwise, normalised
from tests.attentions.draws import Draw, case, moved_by

PARAMS: dict[str, list[Any]] = {
    "d_state": [1, 2, 5],
    "ssm_ratio": [1.0, 2.0, 0.5],
    "dt_rank": [None, 1, 3],
    "conv_bias": [True, False],
    "disable_z": [True, False],
}
FIRST = {"d_state": 16, "ssm_ratio": 2.0, "conv_bias": True, "disable_z": False}
STATES = [
    (  # SS2D of the authors' VMamba-T with ssm_ratio 1: forward_type v05_noz
        case("ss2d", 32, 1, 4, 5),
        {
            "in_proj.weight": (32, 32),
            "conv2d.weight": (32, 1, 3, 3),
            "x_proj.weight": (16, 32),
            "dt_projs.weight": (128, 2),
            "dt_projs_bias": (4, 32),
            "A_logs": (128, 1),
            "Ds": (128,),
            "out_norm.weight": (32,),
            "out_norm.bias": (32,),
            "out_proj.weight": (32, 32),
        },
    ),
    (  # and of the first VMamba, v0, once its stacked weights are flat
        case("ss2d", 24, 1, 4, 5, **FIRST),
        {
            "in_proj.weight": (96, 24),
            "conv2d.weight": (48, 1, 3, 3),
            "conv2d.bias": (48,),
            "x_proj.weight": (136, 48),
            "dt_projs.weight": (192, 2),
            "dt_projs_bias": (4, 48),
            "A_logs": (192, 16),
            "Ds": (192,),
            "out_norm.weight": (48,),
            "out_norm.bias": (48,),
            "out_proj.weight": (24, 48),
        },
    ),
]
LOOPS = [
    case("ss2d", 8, 1, height, width, **params)
    for height, width in ((4, 6), (5, 3), (1, 7), (7, 1), (1, 1))
    for params in ({}, {"d_state": 3, "ssm_ratio": 2.0, "conv_bias": True, "disable_z": False})
]
REFUSED = [
    (case("ss2d", 8, 1, 4, 4, d_state=0), "d_state must be at least 1, got 0"),
    (case("ss2d", 8, 1, 4, 4, dt_rank=0), "dt_rank must be at least 1, got 0"),
    *(
        (
            case("ss2d", 8, 1, 4, 4, ssm_ratio=ratio),
            f"ssm_ratio must leave at least one of 8 channels, got {ratio}",
        )
        for ratio in (0.0, -1.0, 0.1, float("nan"), float("inf"))
    ),
    (case("ss2d", 8, 1, 1, 1, d_state=1, ssm_ratio=0.125, dt_rank=1), None),
]

SS2D = attentions.load("ss2d")
SIDES = st.integers(1, 6)
PATHS = st.integers(0, 3)


def path(number: int, grid: Grid) -> list[tuple[int, int]]:
    """The tokens in the order of a path."""
    rows = [(i, j) for i in range(grid.height) for j in range(grid.width)]
    columns = [(i, j) for j in range(grid.width) for i in range(grid.height)]
    return [rows, columns, rows[::-1], columns[::-1]][number]


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Each path, token by token and state by state."""
    inner, states = len(module.Ds) // 4, module.A_logs.shape[1]
    projected = x[0] @ module.in_proj.weight.T
    gate = projected[..., inner:]
    u = F.silu(depthwise(module.conv2d, projected[..., :inner]))
    mixed = torch.zeros_like(u)
    for number in range(4):
        own = slice(number * inner, (number + 1) * inner)
        weights = module.x_proj.weight.chunk(4)[number]
        rank = len(weights) - 2 * states
        h = torch.zeros(inner, states, dtype=x.dtype)
        for i, j in path(number, draw.grid):
            token = u[i, j]
            seen = weights @ token
            b, c = seen[rank : rank + states], seen[rank + states :]
            delta = module.dt_projs.weight[own] @ seen[:rank] + module.dt_projs_bias[number]
            delta = torch.log1p(delta.exp())
            for n in range(states):
                decay = torch.exp(-module.A_logs[own, n].exp() * delta)
                h[:, n] = decay * h[:, n] + delta * b[n] * token
                mixed[i, j] += c[n] * h[:, n]
            mixed[i, j] += module.Ds[own] * token
    for i in range(draw.grid.height):
        for j in range(draw.grid.width):
            mixed[i, j] = normalised(module.out_norm, mixed[i, j])
    if gate.shape[-1]:
        mixed = mixed * F.silu(gate)
    return (mixed @ module.out_proj.weight.T)[None]


def only_path(draw: Draw, impl: str, number: int) -> Any:
    """The module with one path to read from, and a convolution of the token alone."""
    module = draw.exact(impl)
    states = module.A_logs.shape[1]
    with torch.no_grad():
        for other, weights in enumerate(module.x_proj.weight.chunk(4)):
            if other != number:
                weights[-states:].zero_()  # C, through which a path is read
        kept = module.conv2d.weight[:, :, 1, 1].clone()
        module.conv2d.weight.zero_()
        module.conv2d.weight[:, :, 1, 1] = kept
    return module


@pytest.mark.parametrize("impl", ["eager", "fused"])
@settings(max_examples=15, deadline=None)
@given(height=SIDES, width=SIDES, number=PATHS, token=st.integers(0, 35))
def test_a_path_is_causal(impl: str, height: int, width: int, number: int, token: int) -> None:
    """Along a path a token changes itself and every token after it, and none before it."""
    draw = case("ss2d", 8, 1, height, width, d_state=2)
    order = path(number, draw.grid)
    place = token % len(order)
    module = only_path(draw, impl, number)
    changed = moved_by(module, draw.input().double(), *order[place])
    assert [bool(changed[i, j]) for i, j in order] == [i >= place for i in range(len(order))]


@pytest.mark.parametrize("impl", ["eager", "fused"])
@pytest.mark.parametrize("turned", [False, True])
@settings(max_examples=15, deadline=None)
@given(height=SIDES, width=SIDES)
def test_paths_are_of_one_kind(impl: str, turned: bool, height: int, width: int) -> None:
    """The map upside down, or with rows for columns, is scanned as before by other paths."""
    draw = case("ss2d", 8, 1, height, width, d_state=2, conv_bias=True)
    module, other = draw.exact(impl), draw.exact(impl)
    order = [1, 0, 3, 2] if turned else [2, 3, 0, 1]
    with torch.no_grad():
        for name in ("x_proj.weight", "dt_projs.weight", "dt_projs_bias", "A_logs", "Ds"):
            parameter = other.get_parameter(name)
            parts = parameter.chunk(4)
            parameter.copy_(torch.cat([parts[part] for part in order]))
        kernel = other.conv2d.weight
        kernel.copy_(kernel.mT.clone() if turned else kernel.flip(2, 3))

    def seen(image: Tensor) -> Tensor:
        return image.transpose(1, 2) if turned else image.flip(1, 2)

    x = draw.input().double()
    with torch.inference_mode():
        torch.testing.assert_close(other(seen(x)), seen(module(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_without_memory_nothing_is_mixed(impl: str) -> None:
    """Where states decay at once, a token sees no more than the convolution does."""
    draw = case("ss2d", 8, 1, 7, 9)
    module = draw.exact(impl)
    with torch.no_grad():
        module.A_logs.fill_(12.0)
    changed = moved_by(module, draw.input().double(), 3, 4)
    expected = torch.zeros(7, 9, dtype=torch.bool)
    expected[2:5, 3:6] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_long_steps_are_finite(impl: str) -> None:
    """Time steps of thousands decay to nothing: no exponential of a positive number is taken."""
    draw = case("ss2d", 8, 1, 9, 30)
    module = draw.build(impl)
    with torch.no_grad():
        module.get_parameter("dt_projs_bias").fill_(5000.0)
        output = module(draw.input())
    assert output.isfinite().all()


def test_cost_is_linear_in_tokens() -> None:
    """Each token costs the same, however large the map."""
    assert SS2D.macs is not None
    assert SS2D.macs(64, 2, Grid(20, 10)) == 2 * SS2D.macs(64, 2, Grid(10, 10))
