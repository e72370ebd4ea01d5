"""Special settings at which one mechanism is another, with the same weights and MACs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from attentions import Grid
from tests.attentions.draws import Draw, as_msa, case

UNBIASED = {"relative_position_bias": False}
UP_TO_SEVEN = (Grid(1, 1), Grid(3, 5), Grid(7, 4), Grid(7, 7))

# (a mechanism, its settings, another, its settings, maps): the second loads the weights of the
# first under the same names.
EQUAL: list[tuple[str, dict[str, Any], str, dict[str, Any], tuple[Grid, ...]]] = [
    # One window, or grid, or neighborhood, is all tokens.
    ("window", {"window_size": 7} | UNBIASED, "msa", {}, UP_TO_SEVEN),
    ("grid", {"grid_size": 7} | UNBIASED, "msa", {}, UP_TO_SEVEN),
    ("twins_lsa", {"window_size": 7}, "msa", {}, (Grid(7, 7),)),
    ("neighborhood", {"kernel_size": 3} | UNBIASED, "msa", {}, (Grid(3, 3),)),
    ("neighborhood", {"kernel_size": 11} | UNBIASED, "msa", {}, (Grid(11, 11),)),
    ("mask_unit", {"window_size": 0}, "msa", {}, UP_TO_SEVEN),
    ("mask_unit", {"window_size": 3}, "twins_lsa", {"window_size": 3}, (Grid(3, 3), Grid(6, 9))),
    # Twins' are Swin's windows and PVT's reduction.
    (
        "twins_lsa",
        {"window_size": 3},
        "window",
        {"window_size": 3} | UNBIASED,
        (Grid(3, 3), Grid(6, 9)),
    ),
    ("twins_gsa", {"sr_ratio": 2}, "sra", {"sr_ratio": 2}, (Grid(7, 9),)),
    # No shift, and a map that is one window and so not shifted.
    (
        "shifted_window",
        {"window_size": 3, "shift_size": 0},
        "window",
        {"window_size": 3},
        (Grid(1, 1), Grid(3, 12), Grid(2, 7), Grid(5, 8)),
    ),
    ("shifted_window", {"shift_size": 3}, "window", {}, UP_TO_SEVEN),
    # No expansion and one level.
    (
        "focal",
        {"window_size": 4, "expand_size": 0, "focal_level": 1},
        "window",
        {"window_size": 4},
        (Grid(7, 10),),
    ),
]


@pytest.mark.parametrize("impl", ["eager", "fused"])
@pytest.mark.parametrize(("name", "params", "other", "of_other", "maps"), EQUAL)
def test_is_the_other(
    name: str,
    params: dict[str, Any],
    other: str,
    of_other: dict[str, Any],
    maps: tuple[Grid, ...],
    impl: str,
) -> None:
    """The same function and the same MACs."""
    for grid in maps:
        draw, expected = Draw(name, 12, 3, grid, params), Draw(other, 12, 3, grid, of_other)
        module, other_module = draw.exact(impl), expected.exact()
        other_module.load_state_dict(module.state_dict())
        assert_equal(module, other_module, draw)
        assert draw.macs == expected.macs


def assert_equal(module: nn.Module, expected: nn.Module, draw: Draw) -> None:
    x = draw.input(batch=2).double()
    with torch.inference_mode():
        torch.testing.assert_close(module(x), expected(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ["eager", "fused"])
@pytest.mark.parametrize(
    ("draw", "projections", "out"),
    [
        (case("sra", 12, 3, 4, 5, sr_ratio=1), ("q", "kv"), "proj"),
        (case("hilo", 12, 3, 4, 5, window_size=1, alpha=0.0), ("l_q", "l_kv"), "l_proj"),
        (case("hilo", 12, 3, 4, 5, window_size=1, alpha=0.9), ("l_q", "l_kv"), "l_proj"),
    ],
    ids=str,
)
def test_is_msa(draw: Draw, projections: tuple[str, ...], out: str, impl: str) -> None:
    """No reduction, and windows of one token, whatever alpha says; the same MACs."""
    module = draw.exact(impl)
    assert_equal(module, as_msa(module, draw, projections, out), draw)
    assert draw.macs == Draw("msa", 12, 3, draw.grid, {}).macs


def test_hifi_alone_is_window_attention() -> None:
    """hilo(alpha 0) = window without relative bias; it computes the projection's padding too."""
    draw = case("hilo", 12, 3, 7, 5, window_size=3, alpha=0.0)
    module, window = draw.exact(), case("window", 12, 3, 7, 5, window_size=3, **UNBIASED).exact()
    window.load_state_dict(
        {key.removeprefix("h_"): value for key, value in module.state_dict().items()}
    )
    assert_equal(module, window, draw)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_linformer_with_identity_projections_is_msa(impl: str) -> None:
    """k = N and identities for projections; 2 N^2 C MACs more."""
    draw = case("linformer", 12, 3, 4, 5, k=20, qkv_bias=True)
    module = draw.exact(impl)
    for projection in (module.proj_k, module.proj_v):
        projection.data.copy_(torch.eye(20))
    assert_equal(module, as_msa(module, draw, ("to_q", "to_k", "to_v"), "to_out"), draw)
    assert draw.macs == case("msa", 12, 3, 4, 5).macs + 2 * 20**2 * 12


@pytest.mark.parametrize("impl", ["eager", "fused"])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_quadtree_choosing_everything_is_msa(levels: int, impl: str) -> None:
    """With K = everything the finest level attends to all tokens: alone it is MSA."""
    draw = case("quadtree", 12, 3, 8, 4, levels=levels, topk=32, lepe=False)
    module = draw.exact(impl)
    module.py_att.weight.data[-1] += 1e4
    assert_equal(module, as_msa(module, draw, ("q_proj", "k_proj", "v_proj"), "proj"), draw)
