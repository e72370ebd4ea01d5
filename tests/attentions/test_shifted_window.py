"""Shifted window attention, SW-MSA (arXiv 2103.14030)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.attentions.by_hand import attend
from tests.attentions.draws import Draw, block, case, layers

PARAMS: dict[str, list[Any]] = {
    "window_size": [2, 3, 7],
    "shift_size": [0, 1, 3],
    "by_side": [True, False],
    "relative_position_bias": [True, False],
    "qkv_bias": [True, False],
}
_ROW = {"window_size": 7, "shift_size": 3, "relative_position_bias": False}
PUBLISHED = _ROW, "2.36", "477.17"
STATES = [  # the authors' WindowAttention; the mask is not saved
    (
        case("shifted_window", 8, 2, 6, 6, window_size=3, shift_size=1),
        layers({"qkv": (24, 8), "proj": (8, 8)})
        | {"relative_position_bias_table": (25, 2), "relative_position_index": (9, 9)},
    )
]
LOOPS = [
    case("shifted_window", 8, 2, height, width, window_size=3, shift_size=1)
    for height, width in ((6, 6), (5, 8), (3, 8), (3, 3))
] + [
    case("shifted_window", 8, 2, height, width, window_size=3, shift_size=1, by_side=False)
    for height, width in ((5, 8), (3, 8), (4, 2))
]
REFUSED = [
    (
        case("shifted_window", 8, 2, 8, 8, window_size=3, shift_size=3),
        "shift_size must be between 0 and 2, got 3",
    ),
    (
        case("shifted_window", 8, 2, 8, 8, window_size=0),
        "window_size must be at least 1, got 0",
    ),
]


def sees(draw: Draw, row: int, column: int) -> Tensor:
    """The own window of the rolled map, less what the roll brought there from the opposite edge.

    A side that is no longer than the window is not rolled; nor is the other, where by_side is
    false.
    """
    sides, masks = (draw.grid.height, draw.grid.width), []
    for side, index in zip(sides, (row, column), strict=True):
        bound = side if draw.params.get("by_side", True) else min(sides)
        window = min(draw.params["window_size"], bound)
        is_rolled = bound > draw.params["window_size"]
        masks.append(block(side, index, window, draw.params["shift_size"] if is_rolled else 0))
    return masks[0][:, None] & masks[1]


def slowly(module: Any, x: Tensor, draw: Draw) -> Tensor:
    """Two tokens attend to each other if they are as far apart in the rolled map as in the map.

    That says, without regions and masks, that the roll did not bring them together.
    """
    size, shift = draw.params["window_size"], draw.params["shift_size"]
    if not draw.params.get("by_side", True) and min(x.shape[1:3]) <= size:
        size, shift = min(x.shape[1:3]), 0
    padded = F.pad(x[0], (0, 0, 0, -x.shape[2] % size, 0, -x.shape[1] % size))
    height, width = padded.shape[:2]
    down, right = (shift if side > size else 0 for side in (height, width))
    table = module.relative_position_bias_table.view(2 * size - 1, 2 * size - 1, -1)
    q, k, v = module.qkv(padded).chunk(3, dim=-1)
    tokens = [(i, j) for i in range(height) for j in range(width)]
    rolled = {(i, j): ((i - down) % height, (j - right) % width) for i, j in tokens}
    out = torch.empty_like(padded)
    for i, j in tokens:
        a, b = rolled[i, j]
        near = [
            (m, n)
            for (m, n), (c, d) in rolled.items()
            if (c // size, d // size) == (a // size, b // size) and (c - a, d - b) == (m - i, n - j)
        ]
        bias = torch.stack([table[i - m + size - 1, j - n + size - 1] for m, n in near])
        keys, values = (torch.stack([part[place] for place in near]) for part in (k, v))
        out[i, j] = attend(q[i, j], keys, values, draw.num_heads, bias)
    return module.proj(out)[None, : x.shape[1], : x.shape[2]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_mask_follows_the_map(dtype: torch.dtype) -> None:
    """A map of another size than the module was built for is masked for its own size."""
    params = {"window_size": 3, "shift_size": 1}
    built_for_it = case("shifted_window", 8, 2, 12, 9, **params).exact("fused").to(dtype)
    other = case("shifted_window", 8, 2, 6, 6, **params).exact("fused").to(dtype)
    x = torch.randn(1, 12, 9, 8, dtype=dtype)
    with torch.inference_mode():
        assert torch.equal(other(x), built_for_it(x))


SHIFTED = {"window_size": 7, "shift_size": 3}


@pytest.mark.parametrize(("height", "width"), [(14, 14), (14, 28), (7, 21), (21, 7)])
@pytest.mark.parametrize("shift", [0, 3])
def test_timms_swin(height: int, width: int, shift: int) -> None:
    """Output and gradients in fp64 are those of timm's block where nothing is padded; its weights
    load as they are, without the positions."""
    swin = pytest.importorskip("timm.models.swin_transformer")
    torch.manual_seed(0)
    settings = {"input_resolution": (height, width), "window_size": 7, "shift_size": shift}
    block: Any = swin.SwinTransformerBlock(8, num_heads=2, **settings).double()
    nn.init.normal_(block.attn.relative_position_bias_table)
    weights = block.attn.state_dict()
    assert "relative_position_index" not in weights
    module = case("shifted_window", 8, 2, height, width, window_size=7, shift_size=shift).exact()
    module.load_state_dict(weights)
    x = torch.randn(2, height, width, 8, dtype=torch.float64, requires_grad=True)
    found, expected = module(x), block._attn(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    arriving = torch.randn_like(found)
    pairs = zip(
        torch.autograd.grad(found, [x, *module.parameters()], arriving),
        torch.autograd.grad(expected, [x, *_in_order(block.attn, module)], arriving),
        strict=True,
    )
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def _in_order(other: Any, module: Any) -> list[Tensor]:
    """The parameters of `other` in the order of the module's."""
    named = dict(other.named_parameters())
    return [named[name] for name, _ in module.named_parameters()]


@pytest.mark.parametrize("prefix", ["", "layers.0.attn."])
def test_positions_need_not_be_loaded(prefix: str) -> None:
    """Nor do those that are saved raise, at any depth of a model; what else is missing does."""
    module = case("shifted_window", 8, 2, 8, 8, **SHIFTED).build()
    for name in reversed(prefix.split(".")[:-1]):
        module = nn.ModuleDict({name: module})
    weights = module.state_dict()
    module.load_state_dict(weights)
    del weights[f"{prefix}relative_position_index"]
    module.load_state_dict(weights)
    assert f"{prefix}relative_position_index" not in weights
    del weights[f"{prefix}relative_position_bias_table"]
    with pytest.raises(RuntimeError, match="Missing key"):
        module.load_state_dict(weights)


def test_the_classifiers_rule() -> None:
    """On a map whose one side is no longer than the window it is `window` with square windows;
    on any other map by_side changes nothing. In fp64."""
    for height, width, window in ((7, 21, 7), (21, 7, 7), (5, 15, 5), (14, 21, None)):
        params = SHIFTED | {"by_side": False}
        module = case("shifted_window", 8, 2, height, width, **params).exact()
        other = (
            case("shifted_window", 8, 2, height, width, **SHIFTED)
            if window is None
            else case("window", 8, 2, height, width, window_size=window)
        ).exact()
        other.load_state_dict(module.state_dict())
        x = torch.randn(2, height, width, 8, dtype=torch.float64)
        with torch.inference_mode():
            torch.testing.assert_close(module(x), other(x), rtol=0, atol=1e-12)
