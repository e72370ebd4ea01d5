"""Focal modulation (arXiv 2203.11926)."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from timm.models.focalnet import FocalModulation
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.beside_timm import Weights, assert_is_timms, channels_first
from tests.attentions.by_hand import depthwise, normalised, pointwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "focal_level": [1, 2, 3],
    "focal_window": [1, 3],
    "focal_factor": [0, 2],
    "use_postln_in_modulation": [True, False],
    "normalize_modulator": [True, False],
}
COUNTS = [
    (
        case("focal_modulation", 384, 12, 14, 14),
        384 * (772 + 384 + 384 + 9 + 25 + 49) + 772 + 2 * 384,
        196 * 384 * (4 * 384 + 4 + 83),
    )
]
STATES = [  # the authors' FocalModulation
    (
        case("focal_modulation", 8, 2, 3, 3, focal_level=2, use_postln_in_modulation=True),
        layers({"f": (19, 8), "h": (8, 8, 1, 1), "proj": (8, 8), "ln": (8,)})
        | {"focal_layers.0.0.weight": (8, 1, 3, 3), "focal_layers.1.0.weight": (8, 1, 5, 5)},
    )
]
LOOPS = [
    case("focal_modulation", 4, 1, 4, 5, focal_level=2),
    case("focal_modulation", 4, 1, 1, 1, use_postln_in_modulation=True, normalize_modulator=True),
]
REFUSED = [
    (
        case("focal_modulation", 8, 2, 3, 3, focal_level=0),
        "focal_level must be at least 1, got 0",
    ),
    (
        case("focal_modulation", 8, 2, 3, 3, focal_factor=1),
        "every side must be odd, so that a token is at its centre, got 4",
    ),
    (
        case("focal_modulation", 8, 2, 3, 3, focal_window=-1),
        "every side must be odd, so that a token is at its centre, got -1",
    ),
    (case("focal_modulation", 8, 2, 3, 3), None),
]

FOCAL_MODULATION = attentions.load("focal_modulation")


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Level by level, tap by tap; then token by token."""
    level, dim = len(module.focal_layers), draw.dim
    query, context, gates = module.f(x[0]).split((dim, dim, level + 1), dim=-1)
    contexts = []
    for layer in module.focal_layers:
        context = gelu(depthwise(layer[0], context))
        contexts.append(context)
    contexts.append(gelu(context.mean((0, 1))).expand_as(context))
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        for j in range(x.shape[2]):
            terms = [
                gate * context[i, j] for gate, context in zip(gates[i, j], contexts, strict=True)
            ]
            total = torch.stack(terms).sum(0)
            if draw.params.get("normalize_modulator"):
                total = total / (level + 1)
            modulated = query[i, j] * pointwise(module.h, total)
            if draw.params.get("use_postln_in_modulation"):
                modulated = normalised(module.ln, modulated)
            out[0, i, j] = module.proj(modulated)
    return out


@pytest.mark.parametrize(
    ("height", "width", "post", "share"), [(7, 7, False, False), (5, 8, True, True)]
)
def test_is_timms(height: int, width: int, post: bool, share: bool) -> None:
    """timm's FocalModulation, channels first, its norm named otherwise."""

    def renamed(weights: Weights) -> Weights:
        return {name.replace("norm.", "ln."): weights[name] for name in weights}

    theirs = FocalModulation(
        12,
        3,
        2,
        use_post_norm=post,
        normalize_modulator=share,
    )
    if post:
        cast("Any", theirs.norm).eps = 1e-5  # that of the authors' LayerNorm
    draw = case(
        "focal_modulation",
        12,
        3,
        height,
        width,
        focal_level=2,
        use_postln_in_modulation=post,
        normalize_modulator=share,
    )
    assert_is_timms(draw, theirs, call=channels_first, renamed=renamed)


def test_without_the_global_context_a_token_sees_the_kernels_in_a_row() -> None:
    """Sides of 3 and 5 reach three tokens; the gate of the mean is what lets all others in."""
    module: Any = case("focal_modulation", 8, 1, 9, 9, focal_level=2).exact()
    x = torch.randn(1, 9, 9, 8, dtype=torch.float64)
    moved = x.clone()
    moved[0, 4, 4] += 10

    def changed() -> Tensor:
        with torch.inference_mode():
            return (module(moved) - module(x))[0].abs().amax(-1) > 1e-12

    assert changed().all()
    module.f.weight.data[-1] = 0
    module.f.bias.data[-1] = 0
    near = (torch.arange(9) - 4).abs() <= 3
    assert torch.equal(changed(), near[:, None] & near)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_gates_of_zero_leave_the_bias(impl: str) -> None:
    """Without contexts the modulator is the bias of h at every token."""
    module: Any = FOCAL_MODULATION.build(8, 1, Grid(4, 5), impl=impl).double()
    x = torch.randn(1, 4, 5, 8, dtype=torch.float64)
    with torch.inference_mode():
        module.f.weight[16:] = 0
        module.f.bias[16:] = 0
        query = module.f(x)[..., :8]
        expected = module.proj(query * module.h.bias)
        torch.testing.assert_close(module(x), expected, rtol=0, atol=1e-12)
