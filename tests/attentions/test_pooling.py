"""Pooling as token mixer (arXiv 2111.11418)."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attentions
from attentions import Grid

PARAMS: dict[str, list[Any]] = {"pool_size": [1, 3, 5, 7]}

POOLING = attentions.load("pooling")


def test_has_no_parameters_and_no_macs() -> None:
    """Nothing to load and nothing that counts, whatever the size."""
    assert POOLING.macs is not None
    assert POOLING.macs(768, 12, Grid(14, 14)) == 0
    assert POOLING.build(768, 12, Grid(14, 14), impl="eager").state_dict() == {}


@settings(deadline=None, max_examples=20)
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    pool_size=st.sampled_from([1, 3, 5]),
    seed=st.integers(0, 99),
)
def test_slow_loop(height: int, width: int, pool_size: int, seed: int) -> None:
    """The mean of those neighbours that lie on the map, less the token."""
    torch.manual_seed(seed)
    module = POOLING.build(3, 1, Grid(height, width), impl="eager", pool_size=pool_size)
    x = torch.randn(1, height, width, 3, dtype=torch.float64)
    expected = torch.empty_like(x)
    reach = pool_size // 2
    for i in range(height):
        for j in range(width):
            rows = slice(max(0, i - reach), i + reach + 1)
            columns = slice(max(0, j - reach), j + reach + 1)
            expected[0, i, j] = x[0, rows, columns].mean((0, 1)) - x[0, i, j]
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-10)


def test_constant_map_gives_zero() -> None:
    """Up to the border: what lies outside the map is not averaged in."""
    module = POOLING.build(4, 1, Grid(5, 6), impl="eager")
    assert not module(torch.full((1, 5, 6, 4), 2.0)).any()


def test_one_token_gives_zero() -> None:
    """A map of one token has no neighbours."""
    assert not POOLING.build(4, 1, Grid(1, 1), impl="eager")(torch.randn(2, 1, 1, 4)).any()


def test_heads_do_not_matter() -> None:
    """num_heads changes nothing."""
    x = torch.randn(1, 4, 4, 6)
    one, three = (POOLING.build(6, heads, Grid(4, 4), impl="eager")(x) for heads in (1, 3))
    assert torch.equal(one, three)


def test_unsupported() -> None:
    """An even side has no centre."""
    for pool_size in (0, 2):
        reason = POOLING.reason_against(8, 2, Grid(3, 3), pool_size=pool_size)
        assert reason == (
            f"pool_size must be odd, so that a token is at its centre, got {pool_size}"
        )
