"""Single-head self-attention on a share of the channels (arXiv 2401.16456)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.shvit import SHSA
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.beside_timm import assert_is_timms, channels_first
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"pdim": [None, 1, 3, 4], "qk_dim": [4, 16]}
_NORMED = {
    f"{name}.bn.{field}": shape
    for name, width in (("qkv", 9), ("proj.1", 8))
    for field, shape in (
        ("weight", (width,)),
        ("bias", (width,)),
        ("running_mean", (width,)),
        ("running_var", (width,)),
        ("num_batches_tracked", ()),
    )
}
STATES = [  # the authors' SHSA
    (
        case("single_head", 8, 2, 3, 3, pdim=3, qk_dim=3),
        layers({"pre_norm": (3,)})
        | {"qkv.c.weight": (9, 3, 1, 1), "proj.1.c.weight": (8, 8, 1, 1)}
        | _NORMED,
    )
]
LOOPS = [case("single_head", 8, 2, 3, 4, pdim=3, qk_dim=2), case("single_head", 8, 1, 1, 1)]
REFUSED = [
    (
        case("single_head", 8, 2, 3, 3, pdim=9),
        "pdim is a number of the 8 channels, between 1 and 8, got 9",
    ),
    (
        case("single_head", 8, 2, 3, 3, pdim=0),
        "pdim is a number of the 8 channels, between 1 and 8, got 0",
    ),
    (case("single_head", 8, 2, 3, 3, qk_dim=0), "qk_dim must be at least 1, got 0"),
    (case("single_head", 8, 2, 3, 3, pdim=8), None),
    (
        case("single_head", 4, 1, 1, 1),
        "one attending channel on a 1 x 1 map is a single number, which has no norm",
    ),
]

SINGLE_HEAD = attentions.load("single_head")


def normed(layer: Any, x: Tensor) -> Tensor:
    """A 1 x 1 convolution and the batch norm after it, in eval mode."""
    norm, out = layer.bn, x @ layer.c.weight[:, :, 0, 0].T
    deviation = (norm.running_var + norm.eps).sqrt()
    return (out - norm.running_mean) / deviation * norm.weight + norm.bias


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Query by query, after a norm over all tokens and channels that attend."""
    width, narrow = module.pdim, module.qk_dim
    tokens = x.flatten(0, 2)
    chosen = tokens[:, :width]
    chosen = (chosen - chosen.mean()) / (chosen.var(correction=0) + 1e-5).sqrt()
    chosen = chosen * module.pre_norm.weight + module.pre_norm.bias
    q, k, v = normed(module.qkv, chosen).split((narrow, narrow, width), dim=-1)
    mixed = [(k @ query / narrow**0.5).softmax(0) @ v for query in q]
    joined = torch.cat((torch.stack(mixed), tokens[:, width:]), dim=-1)
    return normed(module.proj[1], joined.clamp(min=0)).view_as(x)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (5, 8)])
def test_is_timms(height: int, width: int) -> None:
    """timm's SHSA, whose names are the authors'."""
    draw = case("single_head", 28, 2, height, width, qk_dim=4)
    assert_is_timms(draw, SHSA(28, 4, 6), call=channels_first)


def test_share_is_that_of_the_authors_models() -> None:
    """S4, of the size nearest to the other mechanisms' models: 48 of 224, 72 of 336, 96 of 448."""
    for dim, width in ((224, 48), (336, 72), (448, 96)):
        module: Any = SINGLE_HEAD.build(dim, 1, Grid(7, 7), impl="fused")
        assert module.pdim == width


def test_other_channels_meet_no_other_token() -> None:
    """A channel that does not attend changes the output at its own token only."""
    module: Any = case("single_head", 8, 2, 4, 5, pdim=3).exact()
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, 1, 2, 3:] += 10
    with torch.inference_mode():
        changed = (module(moved) - module(x))[0].abs().amax(-1) > 1e-12
    assert changed.nonzero().tolist() == [[1, 2]]


def test_training_takes_the_statistics_of_the_batch() -> None:
    """In training mode the fused implementation gives what the equations give, and leaves the same
    running statistics."""
    x = torch.randn(3, 4, 5, 8, dtype=torch.float64)
    outputs, states = [], []
    for impl in ("eager", "fused"):
        module = case("single_head", 8, 2, 4, 5, pdim=3).exact(impl).train()
        outputs.append(module(x))
        states.append(module.state_dict())
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*states, rtol=1e-10, atol=1e-12)
