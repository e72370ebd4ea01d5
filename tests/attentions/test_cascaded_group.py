"""Cascaded group attention (arXiv 2305.07027)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.efficientvit_msra import LocalWindowAttention
from torch import Tensor

from attentions.cascaded_group import Params, kernels_of
from tests.attentions.beside_timm import Weights, assert_is_timms, channels_first
from tests.attentions.by_hand import depthwise
from tests.attentions.draws import Draw, block, case

PARAMS: dict[str, list[Any]] = {
    "window_size": [1, 2, 3, 7],
    "key_dim": [4, 16],
    "kernel_size": [1, 3, 5, 7],
    "kernel_step": [0, 2],
}
_LAYERS = {"qkvs.0": 10, "qkvs.1": 10, "dws.0": 3, "dws.1": 3, "proj.1": 8}
STATES = [  # the authors' CascadedGroupAttention
    (
        case("cascaded_group", 8, 2, 6, 6, window_size=3, key_dim=3, kernel_size=5),
        {
            f"{name}.bn.{field}": () if field == "num_batches_tracked" else (width,)
            for name, width in _LAYERS.items()
            for field in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        }
        | {
            "qkvs.0.c.weight": (10, 4, 1, 1),
            "qkvs.1.c.weight": (10, 4, 1, 1),
            "dws.0.c.weight": (3, 1, 5, 5),
            "dws.1.c.weight": (3, 1, 3, 3),
            "proj.1.c.weight": (8, 8, 1, 1),
            "attention_biases": (2, 9),
            "attention_bias_idxs": (9, 9),
        },
    )
]
LOOPS = [
    case("cascaded_group", 6, heads, height, width, window_size=3, key_dim=2, kernel_size=5)
    for heads, height, width in ((2, 6, 6), (3, 4, 2))
]
REFUSED = [
    (case("cascaded_group", 8, 2, 4, 4, window_size=0), "window_size must be at least 1, got 0"),
    (case("cascaded_group", 8, 2, 4, 4, key_dim=0), "key_dim must be at least 1, got 0"),
    (
        case("cascaded_group", 8, 2, 4, 4, kernel_size=2),
        "kernel_size must be odd, so that a token is at its centre, got 2",
    ),
    (
        case("cascaded_group", 8, 2, 4, 4, kernel_step=1),
        "kernel_step must be even and not negative, got 1",
    ),
]


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The whole of the own window, and nothing beyond its border."""
    height, width = draw.grid.height, draw.grid.width
    rows = block(height, row, min(draw.params["window_size"], height))
    return rows[:, None] & block(width, column, min(draw.params["window_size"], width))


def normed(norm: Any, x: Tensor) -> Tensor:
    """A batch norm in eval mode, channels last."""
    deviation = (norm.running_var + norm.eps).sqrt()
    return (x - norm.running_mean) / deviation * norm.weight + norm.bias


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Window by window, head by head, query by query."""
    tall, wide = min(3, draw.grid.height), min(3, draw.grid.width)
    padded = F.pad(x[0], (0, 0, 0, -x.shape[2] % wide, 0, -x.shape[1] % tall))
    out, width = torch.empty_like(padded), draw.dim // draw.num_heads
    biases = module.attention_biases.view(-1, tall, wide)
    for top in range(0, padded.shape[0], tall):
        for left in range(0, padded.shape[1], wide):
            window = padded[top : top + tall, left : left + wide]
            outputs: list[Tensor] = []
            for head in range(draw.num_heads):
                group = window[..., head * width : (head + 1) * width]
                if outputs:
                    group = group + outputs[-1]
                qkv, dw = module.qkvs[head], module.dws[head]
                projected = normed(qkv.bn, group @ qkv.c.weight[:, :, 0, 0].T)
                q, k, v = projected.split((2, 2, width), dim=-1)
                q = normed(dw.bn, depthwise(dw.c, q))
                mixed = torch.empty_like(v)
                places = [(i, j) for i in range(tall) for j in range(wide)]
                for i, j in places:
                    bias = [biases[head, abs(i - m), abs(j - n)] for m, n in places]
                    scores = k.flatten(0, 1) @ q[i, j] / 2**0.5 + torch.stack(bias)
                    mixed[i, j] = scores.softmax(0) @ v.flatten(0, 1)
                outputs.append(mixed)
            joined = torch.cat(outputs, dim=-1).clamp(min=0)
            projection = module.proj[1]
            result = normed(projection.bn, joined @ projection.c.weight[:, :, 0, 0].T)
            out[top : top + tall, left : left + wide] = result
    return out[None, : x.shape[1], : x.shape[2]]


@pytest.mark.parametrize(("height", "width", "window"), [(7, 7, 7), (9, 6, 4), (5, 8, 4)])
def test_is_timms(height: int, width: int, window: int) -> None:
    """timm's LocalWindowAttention, also where it pads."""

    def renamed(weights: Weights) -> Weights:
        return {
            name.removeprefix("attn.").replace(".conv.", ".c."): value
            for name, value in weights.items()
        }

    theirs = LocalWindowAttention(
        24, 4, 3, attn_ratio=2, resolution=8, window_resolution=window, kernels=(7, 5, 3)
    )
    draw = case("cascaded_group", 24, 3, height, width, window_size=window, key_dim=4)
    assert_is_timms(draw, theirs, call=channels_first, renamed=renamed)


def test_kernels_are_those_of_the_authors_models() -> None:
    """7, 5, 3, 3 in M4 and M5; 5 in all heads of M0 and M3."""
    assert kernels_of(4, Params()) == [7, 5, 3, 3]
    assert kernels_of(4, Params(kernel_size=5, kernel_step=0)) == [5, 5, 5, 5]


def test_heads_feed_the_heads_after_them() -> None:
    """What a head sees changes the outputs of itself and of those after it, before they mix."""
    module: Any = case("cascaded_group", 12, 3, 3, 3, key_dim=4).exact()
    x = torch.randn(1, 3, 3, 12, dtype=torch.float64)
    moved = x.clone()
    moved[..., 4:8] += 1  # the channels of the second head
    seen: list[Tensor] = []
    module.proj[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    with torch.inference_mode():
        module(x)
        module(moved)
    changed = (seen[0] - seen[1]).abs().amax((0, 2, 3)) > 1e-12
    assert changed.unflatten(0, (3, 4)).any(1).tolist() == [False, True, True]


def test_training_takes_the_statistics_of_the_batch() -> None:
    """In training mode both implementations give the same, and keep the same statistics."""
    x = torch.randn(3, 4, 5, 8, dtype=torch.float64)
    outputs, states = [], []
    for impl in ("eager", "fused"):
        module = case("cascaded_group", 8, 2, 4, 5, window_size=2, key_dim=4).exact(impl).train()
        outputs.append(module(x))
        states.append(module.state_dict())
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*states, rtol=1e-10, atol=1e-12)
