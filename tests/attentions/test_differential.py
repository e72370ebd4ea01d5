"""Differential attention (arXiv 2410.05258)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.diff_attention import DiffAttention
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions.beside_timm import Weights, assert_is_timms
from tests.attentions.draws import Draw, case

PARAMS: dict[str, list[Any]] = {"depth": [0, 3, 11]}
COUNTS = [(case("differential", 384, 6, 14, 14), 4 * 384**2 + 4 * 32 + 64, 145_108_992)]
STATES = [  # the authors' MultiheadDiffAttn
    (
        case("differential", 12, 2, 3, 3),
        {f"{name}_proj.weight": (12, 12) for name in ("q", "k", "v", "out")}
        | {f"lambda_{name}": (3,) for name in ("q1", "k1", "q2", "k2")}
        | {"subln.weight": (6,)},
    )
]
LOOPS = [case("differential", 12, 2, 3, 4, depth=2), case("differential", 4, 1, 1, 1)]
REFUSED = [
    (
        case("differential", 12, 4, 3, 3),
        "a head is two halves, so its width must be even, got 3",
    ),
    (case("differential", 12, 3, 3, 3, depth=-1), "depth must be at least 0, got -1"),
    (case("differential", 12, 3, 3, 3), None),
]

DIFFERENTIAL = attentions.load("differential")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Head by head and query by query: two rows of weights, their difference, its norm."""
    tokens, heads = x.flatten(0, 2), draw.num_heads
    half, depth = draw.dim // heads // 2, draw.params.get("depth", 0)
    start = 0.8 - 0.6 * math.exp(-0.3 * depth)
    first, second = module.lambda_q1 @ module.lambda_k1, module.lambda_q2 @ module.lambda_k2
    subtracted = first.exp() - second.exp() + start
    q, k, v = (layer(tokens) for layer in (module.q_proj, module.k_proj, module.v_proj))
    out = torch.empty_like(tokens)
    for i, query in enumerate(q):
        mixed = []
        for head in range(heads):
            one = slice(2 * head * half, (2 * head + 1) * half)
            two = slice((2 * head + 1) * half, (2 * head + 2) * half)
            first = (k[:, one] @ query[one] / half**0.5).softmax(0)
            second = (k[:, two] @ query[two] / half**0.5).softmax(0)
            value = (first - subtracted * second) @ v[:, one.start : two.stop]
            length = ((value**2).mean() + 1e-5).sqrt()
            mixed.append(value / length * module.subln.weight * (1 - start))
        out[i] = module.out_proj(torch.cat(mixed))
    return out.view_as(x)


def apart(weights: Weights) -> Weights:
    """timm's joint projection as the authors' three."""
    projections = zip("qkv", weights["qkv.weight"].chunk(3), strict=True)
    renamed = {f"{name}_proj.weight": value for name, value in projections}
    renamed["out_proj.weight"] = weights["proj.weight"]
    kept = ("lambda", "sub_norm")
    others = {name: value for name, value in weights.items() if name.startswith(kept)}
    return renamed | {name.replace("sub_norm", "subln"): others[name] for name in others}


@pytest.mark.parametrize(("height", "width", "depth"), [(7, 7, 0), (5, 8, 5)])
def test_is_timms(height: int, width: int, depth: int) -> None:
    """timm's DiffAttention without biases, which takes the exponentials in fp32."""
    theirs = DiffAttention(24, 3, proj_bias=False, depth=depth)
    draw = case("differential", 24, 3, height, width, depth=depth)
    assert_is_timms(
        draw,
        theirs,
        call=lambda module, x: module(x.flatten(1, 2)).view(x.shape),
        renamed=apart,
        rtol=1e-5,
    )


@settings(deadline=None, max_examples=10)
@given(height=st.integers(1, 5), width=st.integers(1, 5), seed=st.integers(0, 99))
def test_token_order_does_not_matter(height: int, width: int, seed: int) -> None:
    """Shuffled tokens give the shuffled output."""
    torch.manual_seed(seed)
    module = DIFFERENTIAL.build(12, 3, Grid(height, width), impl="fused").double()
    x = torch.randn(2, height * width, 12, dtype=torch.float64)
    order = torch.randperm(height * width)

    def output(tokens: Tensor) -> Tensor:
        return module(tokens.unflatten(1, (height, width))).flatten(1, 2)

    with torch.inference_mode():
        torch.testing.assert_close(output(x[:, order]), output(x)[:, order], rtol=0, atol=1e-11)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_is_msa_where_nothing_is_subtracted(impl: str) -> None:
    """With lambda 0, the norm's input is MSA's with the first half of queries and keys."""
    draw = case("differential", 12, 3, 4, 5)
    module: Any = draw.exact(impl)
    module.lambda_init = 0.0
    with torch.no_grad():
        for name in ("q1", "k1", "q2", "k2"):
            getattr(module, f"lambda_{name}").zero_()
    # Scores of whole heads are divided by sqrt(2 d), those of halves by sqrt(d).
    mask = module.halves[0].repeat(3)[:, None] * 2**0.25
    msa: Any = case("msa", 12, 3, 4, 5, qkv_bias=False).exact()
    weights = [module.q_proj.weight * mask, module.k_proj.weight * mask, module.v_proj.weight]
    msa.qkv.weight.data = torch.cat(weights).detach()
    msa.proj.weight.data, msa.proj.bias.data = torch.eye(12).double(), torch.zeros(12).double()
    x = draw.input(batch=2).double()
    with torch.inference_mode():
        heads = module.subln(msa(x).unflatten(-1, (3, 4))).flatten(-2)
        torch.testing.assert_close(module(x), module.out_proj(heads), rtol=0, atol=1e-11)
    assert draw.macs == case("msa", 12, 3, 4, 5).macs


def test_noise_in_both_maps_cancels() -> None:
    """With lambda 1, equal maps leave nothing."""
    module: Any = case("differential", 12, 3, 4, 5).exact()
    module.lambda_init = 1.0
    with torch.no_grad():
        for name in ("q1", "k1", "q2", "k2"):
            getattr(module, f"lambda_{name}").zero_()
    q, k, v = torch.randn(3, 1, 3, 20, 4, dtype=torch.float64)
    q, k = (torch.cat((part[..., :2], part[..., :2]), dim=-1) for part in (q, k))
    with torch.inference_mode():
        assert module.difference(q, k, v).abs().max() < 1e-12
