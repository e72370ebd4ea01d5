"""MLLA, linear attention in the block of Mamba (arXiv 2405.16605)."""

from __future__ import annotations

import cmath
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import silu

import attentions
from attentions import Grid
from tests.attentions.by_hand import depthwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"qkv_bias": [True, False]}
STATES = [  # the mixer of the authors' MLLABlock
    (
        case("mlla", 8, 2, 5, 6),
        layers({"in_proj": (8, 8), "act_proj": (8, 8), "out_proj": (8, 8), "dwc": (8, 1, 3, 3)})
        | layers({"attn.qk": (16, 8), "attn.lepe": (8, 1, 3, 3)})
        | {"attn.rope.rotations": (5, 6, 4, 2)},
    )
]
LOOPS = [
    case("mlla", 16, 2, 3, 4),
    case("mlla", 16, 2, 1, 1),
    case("mlla", 12, 4, 2, 3),  # pairs of channels that lie in two heads
]
REFUSED = [
    (case("mlla", 12, 4, 4, 4), None),
    (case("mlla", 6, 2, 4, 4), "dim must be a multiple of 4 for rotary positions, got 6"),
    (case("mlla", 15, 3, 4, 4), "dim must be a multiple of 4 for rotary positions, got 15"),
]

MLLA = attentions.load("mlla")


def turned(token: Tensor, rotations: Tensor) -> Tensor:
    """A token (dim), each pair of channels times a complex number (dim / 2, 2)."""
    out = token.clone()
    for pair, (real, imaginary) in enumerate(rotations.tolist()):
        number = complex(token[2 * pair], token[2 * pair + 1]) * complex(real, imaginary)
        out[2 * pair], out[2 * pair + 1] = number.real, number.imag
    return out


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Query by query, head by head, through the token by token weights that it never forms."""
    places = [(i, j) for i in range(draw.grid.height) for j in range(draw.grid.width)]
    v = silu(depthwise(module.dwc, module.in_proj(x[0])))
    local, gate = depthwise(module.attn.lepe, v), silu(module.act_proj(x[0]))
    q, k = (torch.where(part > 0, part + 1, part.exp()) for part in module.attn.qk(v).chunk(2, -1))
    rotations, out = module.attn.rope.rotations, torch.empty_like(x)
    asked = [turned(k[place], rotations[place]) for place in places]
    for place in places:
        asking, mixed = turned(q[place], rotations[place]), []
        for channels in torch.arange(draw.dim).chunk(draw.num_heads):
            total = sum(q[place][channels] @ k[other][channels] for other in places)
            head = torch.zeros(len(channels), dtype=torch.float64)
            for other, key in zip(places, asked, strict=True):
                weight = asking[channels] @ key[channels]
                head += weight / (total + 1e-6 * len(places)) * v[other][channels]
            mixed.append(head)
        out[0][place] = module.out_proj((torch.cat(mixed) + local[place]) * gate[place])
    return out


def test_rotations_turn_by_row_then_by_column() -> None:
    """exp(i t) with t = place / 10000^(p / P): rows turn the first P pairs, columns the others."""
    module: Any = MLLA.build(24, 2, Grid(4, 3), impl="eager")
    for row in range(4):
        for column in range(3):
            for pair in range(12):
                place = row if pair < 6 else column
                expected = cmath.exp(1j * place / 10000 ** (pair % 6 / 6))
                real, imaginary = module.attn.rope.rotations[row, column, pair].tolist()
                assert abs(complex(real, imaginary) - expected) < 1e-6


@pytest.mark.parametrize("impl", ["eager", "fused"])
@settings(deadline=None, max_examples=5)
@given(angle=st.floats(-9, 9), seed=st.integers(0, 99))
def test_positions_are_relative(impl: str, angle: float, seed: int) -> None:
    """Turning all tokens by one more angle changes nothing: a weight sees the difference."""
    draw = case("mlla", 16, 2, 4, 5)
    module = draw.exact(impl)
    x = draw.input(batch=2, seed=seed).double()
    with torch.inference_mode():
        expected = module(x)
        rotations = torch.view_as_complex(module.attn.rope.rotations.clone())
        further = torch.view_as_real(rotations * cmath.exp(1j * angle))
        module.attn.rope.rotations.copy_(further)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_without_positions_the_order_of_tokens_does_not_matter(impl: str) -> None:
    """With no turn and no local convolution, shuffled tokens give the shuffled output; with the
    turn they do not.
    """
    draw = case("mlla", 16, 2, 4, 5)
    module = draw.exact(impl)
    attention = module.attn if impl == "eager" else module.attn.fused
    x = draw.input(batch=2).double()
    order = torch.randperm(20)

    def shuffled(tokens: Tensor) -> Tensor:
        return tokens.flatten(1, 2)[:, order].unflatten(1, (4, 5))

    with torch.inference_mode():
        module.attn.lepe.weight.zero_()
        assert not torch.allclose(attention(shuffled(x)), shuffled(attention(x)), atol=1e-3)
        module.attn.rope.rotations.copy_(torch.tensor([1.0, 0.0]))
        torch.testing.assert_close(attention(shuffled(x)), shuffled(attention(x)))


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_without_positions_weights_sum_to_one(impl: str) -> None:
    """Tokens that are all alike come back as they are, but for the 1e-6 beside the sum."""
    module: Any = case("mlla", 16, 2, 4, 5).exact(impl)
    attention = module.attn if impl == "eager" else module.attn.fused
    x = torch.randn(2, 1, 1, 16, dtype=torch.float64).expand(-1, 4, 5, -1)
    with torch.inference_mode():
        module.attn.lepe.weight.zero_()
        module.attn.lepe.bias.zero_()
        module.attn.rope.rotations.copy_(torch.tensor([1.0, 0.0]))
        torch.testing.assert_close(attention(x), x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_a_closed_gate_lets_nothing_through(impl: str) -> None:
    """silu(0) = 0: what is left is the bias of the projection."""
    draw = case("mlla", 16, 2, 3, 4)
    module = draw.exact(impl)
    with torch.inference_mode():
        module.act_proj.weight.zero_()
        module.act_proj.bias.zero_()
        out = module(draw.input().double())
        assert torch.equal(out, module.out_proj.bias.expand_as(out))


def test_cost_is_linear_in_tokens() -> None:
    """Each token more costs the same, however large the map."""
    assert MLLA.macs is not None
    counts = [MLLA.macs(64, 2, Grid(side, 10)) for side in (10, 20, 30)]
    assert counts[2] - counts[1] == counts[1] - counts[0]
