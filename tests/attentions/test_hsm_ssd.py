"""State-space mixing on hidden states (arXiv 2411.15241)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions import beside_birder
from tests.attentions.beside_timm import Weights
from tests.attentions.beside_timm import assert_is_timms as assert_is_birders
from tests.attentions.by_hand import depthwise
from tests.attentions.draws import Draw, case

PARAMS: dict[str, list[Any]] = {"state_dim": [1, 4, 9, 32], "ssd_expand": [0.5, 1.0, 2.0]}
STATES = [  # the authors' HSMSSD
    (
        case("hsm_ssd", 8, 2, 4, 4, state_dim=3, ssd_expand=2.0),
        {
            "BCdt_proj.conv.weight": (9, 8, 1),
            "dw.conv.weight": (9, 1, 3, 3),
            "hz_proj.conv.weight": (32, 8, 1),
            "out_proj.conv.weight": (8, 16, 1),
            "A": (3,),
            "D": (1,),
        },
    )
]
LOOPS = [
    case("hsm_ssd", 8, 2, height, width, state_dim=3, ssd_expand=expand)
    for height, width, expand in ((4, 6, 1.0), (5, 3, 2.0), (1, 1, 0.5))
]
REFUSED = [
    (case("hsm_ssd", 8, 2, 4, 4, state_dim=0), "state_dim must be at least 1, got 0"),
    (
        case("hsm_ssd", 8, 2, 4, 4, ssd_expand=0.1),
        "ssd_expand must leave a state at least 1 channel, got 0.1",
    ),
]

HSM_SSD = attentions.load("hsm_ssd")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """State by state: its sum over the tokens, the gate, and what it adds to each token."""
    states = draw.params["state_dim"]
    mixed = depthwise(module.dw.conv, x[0] @ module.BCdt_proj.conv.weight[:, :, 0].T)
    out = torch.zeros_like(x[0])
    for state in range(states):
        b, c, step = (mixed[:, :, state + part * states] for part in range(3))
        weights = (step + module.A[state]).exp()
        weights = weights / weights.sum()
        gathered = sum(
            weights[i, j] * b[i, j] * x[0, i, j]
            for i in range(x.shape[1])
            for j in range(x.shape[2])
        )
        h, z = (module.hz_proj.conv.weight[:, :, 0] @ gathered).chunk(2)
        h = h * (z / (1 + (-z).exp())) + module.D * h
        out += c[:, :, None] * (module.out_proj.conv.weight[:, :, 0] @ h)
    return out[None]


def renamed(weights: Weights) -> Weights:
    """birder's names as the authors'."""
    names = {"bc_dt_proj": "BCdt_proj.conv", "dw": "dw.conv"}
    names |= {"hz_proj": "hz_proj.conv", "out_proj": "out_proj.conv"}
    translated = {}
    for name, value in weights.items():
        layer, *rest = name.split(".")
        translated[".".join([names.get(layer, layer), *rest])] = value
    return translated


@pytest.mark.parametrize(
    ("height", "width", "states", "expand"), [(8, 8, 9, 1.0), (7, 12, 4, 2.0), (1, 5, 3, 0.5)]
)
def test_is_birders(height: int, width: int, states: int, expand: float) -> None:
    """birder's HSMSSD."""
    draw = case("hsm_ssd", 24, 2, height, width, state_dim=states, ssd_expand=expand)
    theirs = beside_birder.net("efficientvim").HSMSSD(24, expand, (1, 16), states)

    def call(module: Any, x: Tensor) -> Tensor:
        y, _ = module(x.flatten(1, 2).mT, height, width)
        return y.permute(0, 2, 3, 1)

    assert_is_birders(draw, theirs, call=call, renamed=renamed)


@pytest.mark.parametrize("impl", ["eager", "fused"])
@settings(deadline=None, max_examples=10)
@given(height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 1000))
def test_order_of_tokens_matters_to_the_convolution_alone(
    impl: str, height: int, width: int, seed: int
) -> None:
    """Where the convolution sees one token only, permuted tokens give permuted outputs."""
    draw = case("hsm_ssd", 8, 1, height, width, state_dim=4)
    module: Any = draw.exact(impl)
    with torch.no_grad():
        outside = torch.ones(3, 3, dtype=torch.bool)
        outside[1, 1] = False
        module.dw.conv.weight[:, :, outside] = 0
        x = draw.input(batch=2, seed=seed).double()
        order = torch.randperm(draw.grid.tokens, generator=torch.Generator().manual_seed(seed))
        permuted = x.flatten(1, 2)[:, order].view(x.shape)
        expected = module(x).flatten(1, 2)[:, order].view(x.shape)
        torch.testing.assert_close(module(permuted), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_a_has_no_effect(impl: str) -> None:
    """Whatever A is, the output stays: softmax over tokens does not see it."""
    draw = case("hsm_ssd", 8, 1, 5, 6, state_dim=4)
    module, x = draw.exact(impl), draw.input().double()
    with torch.no_grad():
        before = module(x)
        module.A.copy_(10 * torch.randn(4))
        torch.testing.assert_close(module(x), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_rank_is_at_most_the_number_of_states(impl: str) -> None:
    """Outputs of all tokens are mixtures of as many vectors as there are states."""
    draw = case("hsm_ssd", 16, 1, 8, 8, state_dim=3)
    with torch.no_grad():
        out = draw.exact(impl)(draw.input().double())
    assert torch.linalg.matrix_rank(out.flatten(0, 2)) == 3


def test_cost_is_linear_in_tokens() -> None:
    """Each token more costs the same, however large the map."""
    assert HSM_SSD.macs is not None
    counts = [HSM_SSD.macs(64, 2, Grid(side, 10)) for side in (10, 20, 30)]
    assert counts[2] - counts[1] == counts[1] - counts[0]
