"""Bi-level routing attention (arXiv 2303.08810)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import attentions
from attentions import Grid
from tests.attentions import beside_birder
from tests.attentions.beside_timm import Weights, channels_first
from tests.attentions.beside_timm import assert_is_timms as assert_is_birders
from tests.attentions.by_hand import attend, depthwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "n_win": [1, 2, 3, 7],
    "topk": [1, 2, 4, 16, 1000],
    "side_dwconv": [0, 3, 5],
}
STATES = [  # the authors' BiLevelRoutingAttention
    (
        case("bi_level", 8, 2, 7, 7),
        layers({"qkv.qkv": (24, 8), "wo": (8, 8), "lepe": (8, 1, 5, 5)}),
    ),
    (
        case("bi_level", 8, 2, 7, 7, side_dwconv=0),
        layers({"qkv.qkv": (24, 8), "wo": (8, 8)}),
    ),
]
LOOPS = [
    case("bi_level", 8, 2, height, width, n_win=regions, topk=topk, side_dwconv=side)
    for height, width, regions, topk, side in (
        (4, 6, 2, 1, 5),
        (5, 7, 2, 3, 3),
        (7, 3, 3, 4, 0),
        (1, 1, 2, 9, 5),
    )
]
REFUSED = [
    (case("bi_level", 8, 2, 4, 4, n_win=0), "n_win must be at least 1, got 0"),
    (case("bi_level", 8, 2, 4, 4, topk=0), "topk must be at least 1, got 0"),
    (
        case("bi_level", 8, 2, 4, 4, side_dwconv=4),
        "side_dwconv must be odd, or 0 for no convolution, got 4",
    ),
    (
        case("bi_level", 8, 2, 4, 4, side_dwconv=-1),
        "side_dwconv must be odd, or 0 for no convolution, got -1",
    ),
    (case("bi_level", 8, 2, 13, 29), None),
]

BI_LEVEL = attentions.load("bi_level")


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Region by region: scores of means, the best regions, then query by query over their tokens.

    Scores are divided by the root of dim; the loops divide by that of head_dim, so that queries
    are divided by that of the heads.
    """
    height, width = x.shape[1:3]
    regions, heads = draw.params["n_win"], draw.num_heads
    padded = F.pad(x[0], (0, 0, 0, -width % regions, 0, -height % regions))
    tall, wide = padded.shape[0] // regions, padded.shape[1] // regions
    q, k, v = module.qkv.qkv(padded).chunk(3, dim=-1)
    places = [(i, j) for i in range(regions) for j in range(regions)]

    def tokens(part: Tensor, place: tuple[int, int]) -> Tensor:
        i, j = place
        return part[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide].flatten(0, 1)

    out = torch.empty_like(padded)
    for i, j in places:
        mean = tokens(q, (i, j)).mean(0)
        scores = [float(mean @ tokens(k, place).mean(0)) for place in places]
        best = sorted(places, key=lambda place: -scores[places.index(place)])
        best = best[: draw.params["topk"]]
        keys, values = (torch.cat([tokens(part, place) for place in best]) for part in (k, v))
        for row in range(i * tall, (i + 1) * tall):
            for column in range(j * wide, (j + 1) * wide):
                out[row, column] = attend(q[row, column] / heads**0.5, keys, values, heads)
    if module.lepe is not None:
        out = out + depthwise(module.lepe, v)
    return module.wo(out)[None, :height, :width]


def renamed(weights: Weights) -> Weights:
    """birder's names as the authors'."""
    names = {"qkv_linear": "qkv.qkv", "output_linear": "wo", "lepe": "lepe"}
    translated = {}
    for name, value in weights.items():
        layer, kind = name.split(".")
        translated[f"{names[layer]}.{kind}"] = value
    return translated


@pytest.mark.parametrize(
    ("height", "width", "regions", "topk", "side"),
    [(7, 7, 7, 4, 5), (14, 21, 7, 16, 5), (9, 15, 3, 1, 3), (5, 10, 1, 1, 3)],
)
def test_is_birders(height: int, width: int, regions: int, topk: int, side: int) -> None:
    """birder's BiLevelRoutingAttention, where the regions divide the map."""
    params = {"n_win": regions, "topk": topk, "side_dwconv": side}
    theirs = beside_birder.net("biformer").BiLevelRoutingAttention(
        32, 2, n_win_h=regions, n_win_w=regions, topk=topk, side_dwconv=side
    )
    draw = case("bi_level", 32, 2, height, width, **params)
    assert_is_birders(draw, theirs, call=channels_first, renamed=renamed)


@pytest.mark.parametrize("impl", ["eager", "fused"])
@pytest.mark.parametrize(
    ("height", "width", "regions", "topk"), [(6, 9, 3, 9), (7, 7, 7, 1000), (4, 5, 1, 1)]
)
def test_with_all_regions_it_is_msa(
    height: int, width: int, regions: int, topk: int, impl: str
) -> None:
    """All regions chosen, and no convolution: MSA, whose scores are divided by the root of dim."""
    params = {"n_win": regions, "topk": topk, "side_dwconv": 0}
    draw = case("bi_level", 12, 3, height, width, **params)
    module: Any = draw.exact(impl)
    state = module.state_dict()
    scale = torch.ones(36, dtype=torch.float64)
    scale[:12] = 3**-0.5
    msa: Any = case("msa", 12, 3, height, width).exact()
    msa.load_state_dict(
        {
            "qkv.weight": state["qkv.qkv.weight"] * scale[:, None],
            "qkv.bias": state["qkv.qkv.bias"] * scale,
            "proj.weight": state["wo.weight"],
            "proj.bias": state["wo.bias"],
        }
    )
    x = draw.input(batch=2).double()
    with torch.inference_mode():
        torch.testing.assert_close(module(x), msa(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["eager", "fused"])
@settings(deadline=None, max_examples=10)
@given(
    regions=st.integers(1, 3),
    tall=st.integers(1, 3),
    wide=st.integers(1, 3),
    topk=st.integers(1, 10),
    seed=st.integers(0, 1000),
)
def test_a_token_attends_to_k_whole_regions(
    impl: str, regions: int, tall: int, wide: int, topk: int, seed: int
) -> None:
    """The values that reach a token are those of k regions, the same for all tokens of a region."""
    grid = Grid(regions * tall, regions * wide)
    draw = Draw("bi_level", 8, 2, grid, {"n_win": regions, "topk": topk, "side_dwconv": 0})
    module: Any = draw.exact(impl)
    torch.manual_seed(seed)
    q, kv = (torch.randn(1, regions**2, tall * wide, dim).double() for dim in (8, 16))
    keys, values = kv.chunk(2, dim=-1)

    def mixed(values: Tensor) -> Tensor:
        return module._attend(q, torch.cat((keys, values), dim=-1)).sum(-1)[0]

    seen = torch.autograd.functional.jacobian(mixed, values)[:, :, 0].abs().sum(-1) > 0
    assert (seen == seen[:, :1, :, :1]).all()  # (region, token, region, token)
    assert (seen[:, 0, :, 0].sum(-1) == min(topk, regions**2)).all()


def test_choice_is_made_by_means() -> None:
    """A region chooses the one whose mean key points most along its mean query."""
    draw = case("bi_level", 4, 1, 4, 4, n_win=2, topk=1)
    module: Any = draw.build("fused")
    q = torch.eye(4)[None, :, None].repeat(1, 1, 4, 1)
    k = torch.eye(4)[None, [2, 0, 3, 1], None].repeat(1, 1, 4, 1)
    assert module.route(q, k)[0, :, 0].tolist() == [1, 3, 0, 2]
