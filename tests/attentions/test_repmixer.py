"""RepMixer (arXiv 2303.14189)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.fastvit import RepMixer
from torch import Tensor

import attentions
from tests.attentions.beside_timm import Weights, assert_is_timms, channels_first
from tests.attentions.by_hand import depthwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {"kernel_size": [1, 3, 5, 7]}
COUNTS = [(case("repmixer", 384, 12, 14, 14), (9 + 1 + 8 + 1) * 384, 196 * 384 * 18)]


def batch_norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    statistics = {f"{name}.{field}": (dim,) for field in ("running_mean", "running_var")}
    return layers({name: (dim,)}) | statistics | {f"{name}.num_batches_tracked": ()}


STATES = [  # the authors' RepMixer, before it is reparameterised
    (
        case("repmixer", 8, 2, 3, 3),
        {
            "layer_scale": (8, 1, 1),
            "mixer.rbr_conv.0.conv.weight": (8, 1, 3, 3),
            "mixer.rbr_scale.conv.weight": (8, 1, 1, 1),
        }
        | batch_norm("norm.rbr_skip", 8)
        | batch_norm("mixer.rbr_skip", 8)
        | batch_norm("mixer.rbr_conv.0.bn", 8)
        | batch_norm("mixer.rbr_scale.bn", 8),
    )
]
LOOPS = [case("repmixer", 3, 1, 4, 5), case("repmixer", 3, 1, 1, 2, kernel_size=5)]
REFUSED = [
    (
        case("repmixer", 8, 2, 3, 3, kernel_size=side),
        f"kernel_size must be odd, so that a token is at its centre, got {side}",
    )
    for side in (0, 4)
]

REPMIXER = attentions.load("repmixer")


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The tokens under the kernel."""
    reach = draw.params["kernel_size"] // 2
    rows = (torch.arange(draw.grid.height) - row).abs() <= reach
    return rows[:, None] & ((torch.arange(draw.grid.width) - column).abs() <= reach)


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Branch by branch, tap by tap."""

    def normed(norm: Any, x: Tensor) -> Tensor:
        deviation = (norm.running_var + norm.eps).sqrt()
        return (x - norm.running_mean) / deviation * norm.weight + norm.bias

    mixer, image = module.mixer, x[0]
    mixed = normed(mixer.rbr_skip, image)
    for branch in (mixer.rbr_conv[0], mixer.rbr_scale):
        mixed = mixed + normed(branch.bn, depthwise(branch.conv, image))
    change = mixed - normed(module.norm.rbr_skip, image)
    return x + module.layer_scale.flatten() * change


def renamed(weights: Weights) -> Weights:
    """timm's names as the authors'."""
    names = {
        "identity": "rbr_skip",
        "conv_kxk": "rbr_conv",
        "conv_scale": "rbr_scale",
        "layer_scale.gamma": "layer_scale",
    }
    translated = dict(weights)
    for theirs, ours in names.items():
        translated = {key.replace(theirs, ours): translated[key] for key in translated}
    return translated


@pytest.mark.parametrize(("height", "width", "side"), [(7, 7, 3), (5, 8, 3), (6, 2, 5)])
def test_is_timms(height: int, width: int, side: int) -> None:
    """timm's RepMixer as it is trained."""
    draw = case("repmixer", 12, 3, height, width, kernel_size=side)
    assert_is_timms(draw, RepMixer(12, side), call=channels_first, renamed=renamed)


def test_one_convolution_is_timms() -> None:
    """Weight and bias of the one convolution are those of timm's reparameterised module."""
    theirs = RepMixer(12).eval()
    module: Any = case("repmixer", 12, 3, 5, 5).exact("fused").float()
    names = renamed({name: torch.empty(0) for name in theirs.state_dict()})
    state = module.state_dict()
    theirs.load_state_dict(
        {
            name: state[ours].view(value.shape)
            for (name, value), ours in zip(theirs.state_dict().items(), names, strict=True)
        }
    )
    theirs.reparameterize()
    weight, bias = module.reparameterized()
    torch.testing.assert_close(weight, theirs.reparam_conv.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bias, theirs.reparam_conv.bias, rtol=1e-5, atol=1e-6)


def test_starts_next_to_the_identity() -> None:
    """The layer scale of 1e-5 leaves the map almost as it is."""
    draw = case("repmixer", 12, 3, 5, 6)
    x = draw.input()
    with torch.inference_mode():
        torch.testing.assert_close(draw.build("fused")(x), x, rtol=0, atol=1e-4)


def test_training_runs_the_branches() -> None:
    """In training mode both implementations give the same, with the statistics of the batch."""
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    outputs = [case("repmixer", 6, 1, 4, 5).exact(impl).train()(x) for impl in ("eager", "fused")]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    evaluated = case("repmixer", 6, 1, 4, 5).exact()(x)
    assert not torch.allclose(outputs[0], evaluated)
