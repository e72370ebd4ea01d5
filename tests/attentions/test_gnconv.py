"""Recursive gated convolution (arXiv 2207.14284)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.published import row

PARAMS: dict[str, list[Any]] = {"order": [1, 2, 3, 4, 5], "s": [1.0, 1 / 3]}

GNCONV = attentions.load("gnconv")


def test_published_row() -> None:
    """2.23 M parameters and 436.51 M MACs at order 4."""
    assert row("gnconv", order=4, s=1 / 3) == ("2.23", "436.51")


def test_exact_counts() -> None:
    """The two counts behind the published row."""
    assert GNCONV.macs is not None
    assert GNCONV.macs(768, 12, Grid(14, 14), order=4) == 436_512_384
    module = GNCONV.build(768, 12, Grid(14, 14), impl="eager", order=4)
    assert sum(parameter.numel() for parameter in module.parameters()) == 2_232_192


def test_settings_are_the_authors() -> None:
    """Orders 2 to 5 from the finest stage to the coarsest, s exactly 1 / 3 in each."""
    for order, stride in enumerate((4, 8, 16, 32), start=2):
        assert GNCONV.settings_at(stride) == {"order": order, "s": 1 / 3}


def test_parameters() -> None:
    """The names and shapes of the authors' gnconv."""
    state = GNCONV.build(8, 2, Grid(3, 3), impl="eager", order=3).state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {
        "proj_in.weight": (16, 8, 1, 1),
        "proj_in.bias": (16,),
        "dwconv.weight": (14, 1, 7, 7),
        "dwconv.bias": (14,),
        "proj_out.weight": (8, 8, 1, 1),
        "proj_out.bias": (8,),
        "pws.0.weight": (4, 2, 1, 1),
        "pws.0.bias": (4,),
        "pws.1.weight": (8, 4, 1, 1),
        "pws.1.bias": (8,),
    }


@pytest.mark.parametrize("order", [1, 2, 4])
def test_slow_loop(order: int) -> None:
    """Token by token: p_0 times its gate, then widened and gated until all channels are there."""
    torch.manual_seed(0)
    module = GNCONV.build(8, 1, Grid(4, 5), impl="eager", order=order, s=0.7).double()
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, order), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, order: int) -> Tensor:
    widths = [8 // 2 ** (order - 1 - k) for k in range(order)]
    projected = x[0] @ module.proj_in.weight[:, :, 0, 0].T + module.proj_in.bias
    kernel, out = module.dwconv.weight[:, 0], torch.empty_like(x)
    for i in range(4):
        for j in range(5):
            gate = module.dwconv.bias.clone()
            for y in range(max(0, i - 3), min(4, i + 4)):
                for z in range(max(0, j - 3), min(5, j + 4)):
                    q = projected[y, z, widths[0] :]
                    gate += kernel[:, y - i + 3, z - j + 3] * q
            gates = (0.7 * gate).split(widths)
            p = projected[i, j, : widths[0]] * gates[0]
            for k in range(1, order):
                widen = module.pws[k - 1]
                p = (widen.weight[:, :, 0, 0] @ p + widen.bias) * gates[k]
            out[0, i, j] = module.proj_out.weight[:, :, 0, 0] @ p + module.proj_out.bias
    return out


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_is_a_polynomial_of_degree_order_plus_one(order: int) -> None:
    """Without biases, t times the input gives t^(order + 1) times the output."""
    torch.manual_seed(0)
    module = GNCONV.build(16, 1, Grid(5, 4), impl="eager", order=order).double()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    x = torch.randn(1, 5, 4, 16, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(module(3 * x), 3 ** (order + 1) * module(x), rtol=1e-9, atol=0)


def test_receptive_field() -> None:
    """Whatever the order, a token sees 7 x 7: all gates come from one convolution."""
    torch.manual_seed(0)
    module = GNCONV.build(16, 1, Grid(10, 11), impl="eager", order=5).double()
    x = torch.randn(1, 10, 11, 16, dtype=torch.float64)
    moved = x.clone()
    moved[0, 4, 6] += 1
    with torch.inference_mode():
        change = (module(moved) - module(x))[0].abs().amax(-1) > 0
    expected = torch.zeros(10, 11, dtype=torch.bool)
    expected[1:8, 3:10] = True
    assert torch.equal(change, expected)


def test_unsupported() -> None:
    """Channels are halved order - 1 times, which must come out even."""
    grid = Grid(3, 3)
    assert GNCONV.reason_against(48, 2, grid, order=5) is None
    reason = GNCONV.reason_against(40, 2, grid, order=5)
    assert reason == "order 5 needs a dim divisible by 16, got 40"
    assert GNCONV.reason_against(8, 2, grid, order=0) == "order must be at least 1, got 0"
