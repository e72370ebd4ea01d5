"""The definition of every mechanism, as its test file states it beside PARAMS.

STATES     cases, each with the names and shapes of the authors' parameters and buffers
LOOPS      cases in which slowly(module, x, case) gives the output for one image in fp64, as
           loops straight from the paper's equations
REFUSED    cases, each with the reason against it, or None where it runs: for a mechanism that
           has `unsupported`
PUBLISHED  hyper-parameters, parameters and MACs of the published table, where it has a row
COUNTS     cases, each with the exact parameters (None: not known) and MACs
sees       sees(case, row, column): which tokens of the output change with that token
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

import attentions
from tests.attentions.draws import Draw, case, draws, file_of, moved_by, parameters, params_of

NAMES = attentions.names()


def stated(field: str) -> list[Any]:
    """The entries of this list in the test files of all mechanisms, as pytest's parameters."""
    return [
        pytest.param(*(entry if isinstance(entry, tuple) else (entry,)), id=f"{name}-{number}")
        for name in NAMES
        for number, entry in enumerate(getattr(file_of(name), field, ()))
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_mechanism_states_its_definition(name: str) -> None:
    """Names and shapes, loops and refusals are nowhere left out."""
    file = file_of(name)
    assert file.STATES
    assert file.LOOPS
    assert hasattr(file, "REFUSED") == (attentions.load(name).unsupported is not None)


@pytest.mark.parametrize(("draw", "expected"), stated("STATES"))
def test_state_is_that_of_the_authors(draw: Draw, expected: dict[str, tuple[int, ...]]) -> None:
    """Published weights load: parameters and buffers have the authors' names and shapes."""
    state = draw.build("fused").state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == expected


@pytest.mark.parametrize("name", [name for name in NAMES if "qkv_bias" in params_of(name)])
def test_no_qkv_bias_leaves_the_biases_out(name: str) -> None:
    """Queries, keys, values and a gate beside them have biases, dim of each or fewer, or none."""
    draw = next(draws(name, 1))
    with_bias, without = (
        parameters(replace(draw, params={**draw.params, "qkv_bias": bias}))
        for bias in (True, False)
    )
    assert 0 < with_bias - without <= 4 * draw.dim


@pytest.mark.parametrize("draw", stated("LOOPS"))
def test_slow_loop(draw: Draw) -> None:
    """The equations give what loops straight from the paper give."""
    module, x = draw.exact(), draw.input().double()
    with torch.inference_mode():
        expected = file_of(draw.name).slowly(module, x, draw)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("draw", "reason"), stated("REFUSED"))
def test_reason_against(draw: Draw, reason: str | None) -> None:
    """Settings outside their range and sizes that cannot work are answered in words."""
    assert draw.reason == reason


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(file_of(name), "PUBLISHED")])
def test_published_row(name: str) -> None:
    """Millions of parameters and MACs are those of the published table, as it prints them."""
    params, *published = file_of(name).PUBLISHED
    draw = case(name, 768, 12, 14, 14, **params)
    assert [f"{count / 1e6:.2f}" for count in (parameters(draw), draw.macs)] == published


@pytest.mark.parametrize(("draw", "weights", "macs"), stated("COUNTS"))
def test_exact_counts(draw: Draw, weights: int | None, macs: int) -> None:
    """Parameters and MACs that are known to the last digit."""
    assert draw.macs == macs
    assert weights is None or parameters(draw) == weights


@pytest.mark.parametrize("name", [name for name in NAMES if hasattr(file_of(name), "sees")])
def test_receptive_field(name: str) -> None:
    """A changed token changes the output of exactly those tokens that see it."""
    rng = random.Random(name)
    for draw in draws(name, 20):
        row, column = rng.randrange(draw.grid.height), rng.randrange(draw.grid.width)
        expected = file_of(name).sees(draw, row, column)
        for impl in attentions.load(name).impls:
            changed = moved_by(draw.exact(impl), draw.input().double(), row, column)
            assert torch.equal(changed, expected), f"{impl} {draw} {row} {column}"
