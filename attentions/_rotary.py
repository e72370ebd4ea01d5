"""Rotary position embedding, arXiv 2104.09864: pairs of channels turn with the position."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def angles(positions: int, pairs: int) -> Float[Tensor, "positions pairs"]:
    """By how much each pair of channels turns at each position, in radians, in fp64.

    At position 1 the first pair turns by 1 and the last by 1/10000; the logarithms of all lie at
    equal steps.
    """
    speeds = 10000.0 ** -torch.linspace(0, 1, pairs, dtype=torch.float64)
    return torch.arange(positions, dtype=torch.float64)[:, None] * speeds


def cos_and_sin(
    turns: Float[Tensor, "*positions pairs"],
) -> Float[Tensor, "2 *positions pairs"]:
    """Both of each angle, rounded to torch's default dtype."""
    return torch.stack((turns.cos(), turns.sin())).to(torch.get_default_dtype())


def turned(
    x: Float[Tensor, "*batch channels"], turn: Float[Tensor, "2 *#batch pairs"]
) -> Float[Tensor, "*batch channels"]:
    """Each two neighbouring channels, turned as a vector of the plane."""
    (cos, sin), first, second = turn, x[..., ::2], x[..., 1::2]
    both = (first * cos - second * sin, second * cos + first * sin)
    return torch.stack(both, dim=-1).flatten(-2)


def planes(parameter: Tensor) -> Tensor:
    """Weights or biases of a projection, those of all pairs' first channels before the second."""
    return parameter.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1)


def turned_planes(
    x: Float[Tensor, "*batch tokens two_planes"],
    turn: Float[Tensor, "2 *#batch tokens pairs"],
    num_heads: int,
) -> Float[Tensor, "*batch heads tokens head_dim"]:
    """`turned`, of what a projection by `planes` gives, which CPUs turn in vectors.

    A head's channels come in another order, which is the same for queries and keys: their products
    are what they were.
    """
    first, second = x.chunk(2, dim=-1)
    cos, sin = turn[..., None, :].expand(*turn.shape[:-1], num_heads, -1).flatten(-2)
    both = (
        torch.addcmul(first * cos, second, sin, value=-1),
        torch.addcmul(second * cos, first, sin),
    )
    heads = (part.unflatten(-1, (num_heads, -1)).transpose(-3, -2) for part in both)
    return torch.cat(tuple(heads), dim=-1)
