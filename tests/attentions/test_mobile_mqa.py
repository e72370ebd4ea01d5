"""Mobile multi-query attention (arXiv 2404.10518)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers.attention2d import MultiQueryAttention2d
from torch import Tensor

from tests.attentions.beside_timm import assert_is_timms, channels_first
from tests.attentions.by_hand import depthwise, pointwise
from tests.attentions.draws import Draw, case, layers

PARAMS: dict[str, list[Any]] = {
    "key_dim": [4, 8],
    "value_dim": [8, 12],
    "kv_stride": [1, 2, 3],
    "dw_kernel_size": [1, 3, 5],
}
_REDUCTION = {
    f"{part}.{name}": shape
    for part in ("key", "value")
    for name, shape in (
        layers({"norm": (8,)})
        | {"down_conv.weight": (8, 1, 3, 3), "norm.num_batches_tracked": ()}
        | {"norm.running_mean": (8,), "norm.running_var": (8,)}
    ).items()
}
_PROJECTIONS = {
    "query.proj.weight": (12, 8, 1, 1),
    "key.proj.weight": (6, 8, 1, 1),
    "value.proj.weight": (5, 8, 1, 1),
    "output.proj.weight": (8, 10, 1, 1),
}
STATES = [  # timm's MultiQueryAttention2d
    (case("mobile_mqa", 8, 2, 4, 4, key_dim=6, value_dim=5), _PROJECTIONS | _REDUCTION),
    (case("mobile_mqa", 8, 2, 4, 4, key_dim=6, value_dim=5, kv_stride=1), _PROJECTIONS),
]
LOOPS = [
    case("mobile_mqa", 6, 2, height, width, key_dim=3, value_dim=4, kv_stride=stride)
    for height, width, stride in ((4, 6, 2), (5, 3, 2), (2, 3, 1))
]
REFUSED = [
    (case("mobile_mqa", 8, 2, 4, 4, key_dim=0), "key_dim must be at least 1, got 0"),
    (case("mobile_mqa", 8, 2, 4, 4, kv_stride=0), "kv_stride must be at least 1, got 0"),
    (
        case("mobile_mqa", 8, 2, 4, 4, dw_kernel_size=2),
        "dw_kernel_size must be odd, so that a token is at its centre, got 2",
    ),
]


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Head by head and query by query over the same keys and values."""

    def reduced(layer: Any) -> Tensor:
        image = x[0]
        if draw.params["kv_stride"] > 1:
            norm, image = layer.norm, depthwise(layer.down_conv, image, stride=2)
            deviation = (norm.running_var + norm.eps).sqrt()
            image = (image - norm.running_mean) / deviation * norm.weight + norm.bias
        return pointwise(layer.proj, image).flatten(0, 1)

    keys, values = reduced(module.key), reduced(module.value)
    queries = pointwise(module.query.proj, x[0]).flatten(0, 1)
    mixed = [
        torch.cat([(keys @ q / 3**0.5).softmax(0) @ values for q in query.split(3)])
        for query in queries
    ]
    return pointwise(module.output.proj, torch.stack(mixed)).view_as(x)


@pytest.mark.parametrize(
    ("height", "width", "stride"), [(8, 8, 2), (5, 8, 2), (7, 6, 3), (4, 5, 1)]
)
def test_is_timms(height: int, width: int, stride: int) -> None:
    """timm's MultiQueryAttention2d, also on sizes that the stride does not divide."""
    theirs = MultiQueryAttention2d(12, num_heads=3, key_dim=8, value_dim=8, kv_stride=stride)
    draw = case("mobile_mqa", 12, 3, height, width, key_dim=8, value_dim=8, kv_stride=stride)
    assert_is_timms(draw, theirs, call=channels_first)


@pytest.mark.parametrize("impl", ["eager", "fused"])
def test_one_head_without_reduction_is_msa(impl: str) -> None:
    """With one head as wide as the map, and a key for every token: MSA without biases."""
    draw = case("mobile_mqa", 12, 1, 4, 5, key_dim=12, value_dim=12, kv_stride=1)
    module: Any = draw.exact(impl)
    msa: Any = case("msa", 12, 1, 4, 5, qkv_bias=False).exact()
    weights = [layer.proj.weight.flatten(1) for layer in (module.query, module.key, module.value)]
    msa.qkv.weight.data = torch.cat(weights)
    msa.proj.weight.data = module.output.proj.weight.data.flatten(1)
    msa.proj.bias.data.zero_()
    x = draw.input(batch=2).double()
    with torch.inference_mode():
        torch.testing.assert_close(module(x), msa(x), rtol=0, atol=1e-12)
    assert draw.macs == case("msa", 12, 1, 4, 5).macs


def test_training_takes_the_statistics_of_the_batch() -> None:
    """In training mode both implementations give the same, and keep the same statistics."""
    x = torch.randn(3, 4, 5, 8, dtype=torch.float64)
    outputs, states = [], []
    for impl in ("eager", "fused"):
        module = case("mobile_mqa", 8, 2, 4, 5, key_dim=4, value_dim=4).exact(impl).train()
        outputs.append(module(x))
        states.append(module.state_dict())
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(*states, rtol=1e-10, atol=1e-12)
