"""Performer, FAVOR+ (arXiv 2009.14794)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.draws import Draw, as_msa, case, layers, parameters

# key_max "batch" mixes images by definition, and detach_max gives no derivative: their tests are
# here, not among the contract's.
PARAMS: dict[str, list[Any]] = {
    "nb_features": [None, 1, 7, 32],
    "key_max": ["head"],
    "detach_max": [False],
    "qkv_bias": [True, False],
}
STATES = [  # lucidrains' SelfAttention; the random directions are a buffer
    (
        case("performer", 8, 2, 3, 3, nb_features=6),
        layers({f"to_{part}": (8, 8) for part in ("q", "k", "v", "out")})
        | {"fast_attention.projection_matrix": (6, 4)},
    )
]
LOOPS = [case("performer", 12, 3, 2, 3, nb_features=7)]
REFUSED = [
    (case("performer", 8, 2, 3, 3), None),
    (case("performer", 8, 2, 3, 3, nb_features=0), "nb_features must be at least 1, got 0"),
    (case("performer", 8, 2, 3, 3, key_max="image"), "key_max is head or batch, got 'image'"),
    (
        case("performer", 2, 2, 3, 3),
        "d ln d gives no feature for a head_dim of 1: set nb_features",
    ),
    (case("performer", 2, 2, 3, 3, nb_features=4), None),
]

PERFORMER = attentions.load("performer")


def test_published_row() -> None:
    """617.24 M MACs as published are 617.16 M and N C / 2.

    The published code divides by the normaliser inside an einsum of three tensors. fvcore halves
    NumPy's operations for it, so each of the N C divisions counts half a MAC; a division counts
    nothing elsewhere, and here. The normaliser itself, a product of matrices, counts in both.
    """
    draw = case("performer", 768, 12, 14, 14, nb_features=256)
    assert f"{parameters(draw) / 1e6:.2f}" == "2.36"
    assert draw.macs == 617_164_800
    assert f"{(draw.macs + 196 * 768 / 2) / 1e6:.2f}" == "617.24"


@pytest.mark.parametrize(("head_dim", "features"), [(64, 266), (32, 110), (4, 5)])
def test_default_number_of_features(head_dim: int, features: int) -> None:
    """d ln d, rounded down."""
    module: Any = PERFORMER.build(2 * head_dim, 2, Grid(2, 2), impl="eager")
    assert module.fast_attention.projection_matrix.shape == (features, head_dim)


def test_directions_are_orthogonal_in_blocks() -> None:
    """Within a block of d rows all are at right angles; lengths are those of normal vectors."""
    torch.manual_seed(0)
    module: Any = PERFORMER.build(16, 1, Grid(2, 2), impl="eager", nb_features=1000).double()
    rows = module.fast_attention.projection_matrix
    for block in rows.split(16):
        angles = block @ block.T
        assert (angles - angles.diag().diag()).abs().max() < 1e-4
    assert 15 < rows.square().sum(1).mean() < 17
    assert 0.3 < (rows[::16, 0] > 0).double().mean() < 0.7


@pytest.mark.parametrize("key_max", ["head", "batch"])
def test_slow_loop_of_two_images(key_max: str) -> None:
    """The loop with the maximum of each head, and of all heads and images."""
    draw = case("performer", 12, 3, 2, 3, nb_features=7, key_max=key_max)
    module, x = draw.exact(), 2 * draw.input(batch=2).double()
    with torch.inference_mode():
        torch.testing.assert_close(module(x), slowly(module, x, draw), rtol=0, atol=1e-10)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Feature by feature and pair by pair, the weights written out."""
    directions = module.fast_attention.projection_matrix
    tokens = x.flatten(1, 2)
    q, k, v = (
        layer(tokens).unflatten(-1, (3, 4)) for layer in (module.to_q, module.to_k, module.to_v)
    )
    q, k = q / 4**0.25, k / 4**0.25
    of_batch = draw.params.get("key_max") == "batch"
    over_all = (k @ directions.T).max()
    mixed = torch.empty_like(v)
    for image in range(len(x)):
        for head in range(3):
            keys = k[image, :, head]
            largest = over_all if of_batch else (keys @ directions.T).max()
            phi_k = torch.stack([phi(key, directions, largest) for key in keys])
            for i in range(6):
                query = q[image, i, head]
                phi_q = phi(query, directions, (directions @ query).max())
                weights = torch.stack([phi_q @ other for other in phi_k])
                mixed[image, i, head] = weights / weights.sum() @ v[image, :, head]
    return module.to_out(mixed.flatten(2)).view_as(x)


def phi(token: Tensor, directions: Tensor, largest: Tensor) -> Tensor:
    exponents = [w @ token - token @ token / 2 - largest for w in directions]
    return (torch.stack(exponents).exp() + 1e-4) / len(directions) ** 0.5


def test_estimates_softmax_attention() -> None:
    """The error against msa with the same weights falls as 1 / sqrt(features).

    It does for directions that lean to no side, and while EPS is small beside the features.
    """
    torch.manual_seed(0)
    grid = Grid(4, 4)
    x = 0.5 * torch.randn(1, 4, 4, 8, dtype=torch.float64)

    def error(features: int) -> float:
        performer = PERFORMER.build(8, 2, grid, impl="eager", nb_features=features).double()
        msa = as_msa(performer, case("msa", 8, 2, 4, 4), ("to_q", "to_k", "to_v"), "to_out")
        with torch.inference_mode():
            return (performer(x) - msa(x)).square().mean().sqrt().item()

    few, many = (sum(error(features) for _ in range(20)) / 20 for features in (16, 16 * 256))
    assert many < 0.001
    assert 10 < few / many < 32


def test_output_of_an_image_depends_on_its_neighbours_with_key_max_batch() -> None:
    """Only there: with key_max head an image gives the same alone and beside a loud one."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3, 8, dtype=torch.float64)
    x[1] *= 8

    def change(key_max: str) -> float:
        params = {"nb_features": 16, "key_max": key_max}
        module = PERFORMER.build(8, 2, Grid(3, 3), impl="eager", **params).double()
        with torch.inference_mode():
            return (module(x)[:1] - module(x[:1])).abs().max().item()

    assert change("head") < 1e-14
    assert change("batch") > 1e-6


def test_one_image_of_one_head_has_one_maximum() -> None:
    """With one head and one image the two are the same."""
    torch.manual_seed(0)
    x = torch.randn(1, 3, 3, 8)
    modules = [
        PERFORMER.build(8, 1, Grid(3, 3), impl="eager", key_max=key_max)
        for key_max in ("head", "batch")
    ]
    modules[1].load_state_dict(modules[0].state_dict())
    assert torch.equal(modules[0](x), modules[1](x))


@pytest.mark.parametrize("impl", ["eager", "fused"])
@pytest.mark.parametrize("key_max", ["head", "batch"])
def test_the_references_gradient(impl: str, key_max: str) -> None:
    """With detach_max it is that of features whose maximum is a constant, in fp64; the output is
    the same, and without it the gradient is another: the derivative."""
    draw = case("performer", 12, 3, 2, 3, nb_features=7, key_max=key_max, detach_max=True)
    module, x = draw.exact(impl), 2 * draw.input(batch=2).double()
    expected = _attended(module, x.requires_grad_(), key_max)
    arriving = torch.randn_like(x)
    torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)
    found = torch.autograd.grad(module(x), [x, *module.parameters()], arriving)
    wanted = torch.autograd.grad(expected, [x, *module.parameters()], arriving)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)
    params = {"nb_features": 7, "key_max": key_max}
    true = case("performer", 12, 3, 2, 3, **params).exact(impl)
    true.load_state_dict(module.state_dict())
    (derivative,) = torch.autograd.grad(true(x), x, arriving)
    assert (derivative - found[0]).norm() > 1e-6 * derivative.norm()


def _attended(module: Any, x: Tensor, key_max: str) -> Tensor:
    """phi(Q) (phi(K)^T V) over phi(Q) (phi(K)^T 1), all tokens at once, maxima as constants."""
    directions, tokens = module.fast_attention.projection_matrix, x.flatten(1, 2)
    q, k, v = (
        layer(tokens).unflatten(-1, (3, 4)).transpose(1, 2)
        for layer in (module.to_q, module.to_k, module.to_v)
    )
    features = []
    for part, over in ((q, (-1,)), (k, (-2, -1) if key_max == "head" else (0, 1, 2, 3))):
        along = part / 4**0.25 @ directions.T
        length = (part / 4**0.25).square().sum(-1, keepdim=True) / 2
        constant = along.amax(over, keepdim=True).detach()
        features.append((along - length - constant).exp() + 1e-4)
    weights = features[0] @ features[1].transpose(-2, -1)
    mixed = weights / weights.sum(-1, keepdim=True) @ v
    output: Tensor = module.to_out(mixed.transpose(1, 2).flatten(2)).view_as(x)
    return output
