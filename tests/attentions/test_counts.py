"""MACs of every mechanism: closed form = fvcore = FlopCounterMode / 2."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import attentions
from attentions import Grid
from tests.attentions.draws import Draw, draws, is_sentence

with warnings.catch_warnings():
    # fvcore calls torch.jit.script at import, which torch 2.14 announces as deprecated.
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape

NAMES = attentions.names()

# Operators that torch's FlopCounterMode counts, under fvcore's names; fvcore also counts
# normalisation, adaptive pooling and grid sampling.
KNOWN_TO_BOTH = {"mm", "bmm", "addmm", "matmul", "linear", "conv", "einsum"}


def fourier(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Half of 5 N log2 N flops for each real map (batch, height, width, dim) of N points."""
    real = inputs[0] if inputs[0].type().scalarType() in ("Float", "Double") else outputs[0]
    batch, height, width, dim = get_shape(real)
    points = height * width
    return Counter({"fft": round(2.5 * batch * dim * points * math.log2(points))})


def selective_scan(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Of u (batch, paths, tokens, channels) and a (paths, channels, states)."""
    states = get_shape(inputs[2])[-1]
    return Counter({"scan": math.prod(get_shape(inputs[0])) * (4 * states + 2)})


# What fvcore scores as zero, by its defined cost (docs/method.md).
HANDLES = {
    "aten::fft_rfft2": fourier,
    "aten::fft_irfft2": fourier,
    "attentions::selective_scan": selective_scan,
}


@pytest.mark.parametrize("count", [6, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_closed_form_counts_what_fvcore_and_torch_count(name: str, count: int) -> None:
    """MACs: closed form = fvcore = FlopCounterMode / 2 on the equations, at random cases."""
    for draw in draws(name, count):
        assert_counts_agree(draw)


@pytest.mark.parametrize("name", NAMES)
def test_closed_form_at_the_authors_settings(name: str) -> None:
    """The same at the settings by stride, on the maps of a 224 x 224 and of a 256 x 160 image."""
    for stride, settings in attentions.load(name).settings.items():
        for height, width in ((224, 224), (256, 160)):
            draw = Draw(name, 32, 2, Grid(height // stride, width // stride), settings)
            if draw.reason is None:
                assert_counts_agree(draw)
            else:
                assert is_sentence(draw.reason)


def assert_counts_agree(draw: Draw) -> None:
    macs = attentions.load(draw.name).macs
    assert macs is not None, f"{draw.name} has no closed form"
    closed_form = macs(draw.dim, draw.num_heads, draw.grid, **draw.params)
    assert isinstance(closed_form, int)
    module = draw.build("eager")
    by_fvcore, known = fvcore_macs(module, draw.input())
    assert closed_form == by_fvcore, f"closed form {closed_form}, fvcore {by_fvcore}, {draw}"
    by_torch = torch_macs(module, draw.input())
    assert known == by_torch, f"fvcore {known}, FlopCounterMode / 2 {by_torch}, {draw}"


def fvcore_macs(module: nn.Module, x: Tensor) -> tuple[float, float]:
    """(all that fvcore counts, the part of it that FlopCounterMode counts as well).

    With numbers, as in torch_macs: on maps as small as these, the meta device takes longer.
    """
    analysis = FlopCountAnalysis(module, x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.set_op_handle(**HANDLES)
    with torch.no_grad():
        by_operator = analysis.by_operator()
    return analysis.total(), sum(by_operator[key] for key in by_operator if key in KNOWN_TO_BOTH)


def torch_macs(module: nn.Module, x: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(x)
    return counter.get_total_flops() / 2
