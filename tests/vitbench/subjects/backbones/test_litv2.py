"""LITv2: the published counts, the checkpoints' names, and a pyramid at any size."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import StochasticDepth, deform_conv2d

import attentions
from vitbench.instruments import _fvcore, macs
from vitbench.subjects.backbones import Unsuitable
from vitbench.subjects.backbones.litv2 import (
    CONFIGS,
    DeformableConv,
    LITv2,
    LITv2Config,
    configured,
    corners,
    formula_macs,
    grids_on,
    spec,
)

PARAMS = {"litv2_s": 27_844_000, "litv2_m": 48_830_368, "litv2_b": 86_520_704}
TINY = LITv2Config(dim=24, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), drop_path=0.1)


def built(name: str, size: int | tuple[int, int] = 224, **params: Any) -> LITv2:
    """A LITv2 on the meta device: names, shapes and counts without weights."""
    height, width = (size, size) if isinstance(size, int) else size
    features_only = params.pop("features_only", False)
    with torch.device("meta"):
        return LITv2(
            configured(CONFIGS[name], params, {}), height, width, features_only=features_only
        )


def litv2_s(**params: Any) -> LITv2Config:
    """LITv2-S with other hyper-parameters in stage 3."""
    return configured(CONFIGS["litv2_s"], params, {})


def tiny(height: int = 64, width: int = 64, **changes: Any) -> LITv2:
    """A small one with weights; its offsets are not zero."""
    torch.manual_seed(0)
    model = LITv2(TINY, height, width, num_classes=10, **changes)
    for module in model.modules():
        if isinstance(module, DeformableConv):
            nn.init.normal_(module.conv_offset.weight, std=0.05)
            assert module.conv_offset.bias is not None
            nn.init.normal_(module.conv_offset.bias, std=0.5)
    return model


# Published counts


@pytest.mark.parametrize("name", PARAMS)
def test_params_are_those_of_the_authors(name: str) -> None:
    """To the last one."""
    assert macs.params(built(name)) == PARAMS[name]


@pytest.mark.parametrize(
    ("name", "size", "giga"),
    [
        ("litv2_s", 224, 3.734),
        ("litv2_m", 224, 7.479),
        ("litv2_b", 224, 13.194),
        ("litv2_b", 384, 39.709),
    ],
)
def test_the_formula_gives_the_published_figure(name: str, size: int, giga: float) -> None:
    """The authors' flops(), in GMACs."""
    assert round(formula_macs(CONFIGS[name], size, size) / 1e9, 3) == giga


@pytest.mark.parametrize(
    ("alpha", "giga", "millions"),
    [
        (0.0, 3.965, 28.09),
        (0.2, 3.881, 27.84),
        (0.4, 3.815, 27.70),
        (0.5, 3.769, 27.65),
        (0.7, 3.742, 27.70),
        (0.9, 3.734, 27.84),
        (1.0, 3.746, 28.09),
    ],
)
def test_the_table_over_alpha(alpha: float, giga: float, millions: float) -> None:
    """Formula and parameters of LITv2-S."""
    assert round(formula_macs(litv2_s(alpha=alpha), 224, 224) / 1e9, 3) == giga
    assert round(macs.params(built("litv2_s", alpha=alpha)) / 1e6, 2) == millions


@pytest.mark.parametrize(("window", "giga"), [(1, 4.139), (2, 3.734), (7, 3.641), (14, 3.656)])
def test_the_table_over_windows(window: int, giga: float) -> None:
    """Formula of LITv2-S."""
    assert round(formula_macs(litv2_s(window_size=window), 224, 224) / 1e9, 3) == giga


@pytest.mark.parametrize(
    ("attention", "millions"),
    [
        ({"attention": "msa"}, 28.09),
        ({"attention": "sra", "sr_ratio": 2}, 31.64),
        ({"attention": "window", "window_size": 7}, 28.10),
        ({"attention": "twins_lsa+twins_gsa"}, 29.86),
        ({"attention": "hilo"}, 27.84),
    ],
)
def test_the_table_of_exchanged_attention(attention: dict[str, Any], millions: float) -> None:
    """Parameters of LITv2-S."""
    assert round(macs.params(built("litv2_s", **attention)) / 1e6, 2) == millions


@pytest.mark.parametrize("name", PARAMS)
def test_what_the_formula_counts_beside_the_macs(name: str) -> None:
    """The true count is the formula less what it takes for more: each term by its own reason."""
    config = CONFIGS[name]
    grids = grids_on(224, 224)
    normed = grids[0].tokens * config.dim  # elements: the patch embedding's
    batch_normed = more = 0
    for stage, grid in enumerate(grids):
        dim = config.dim << stage
        norms = 1 if stage < 2 else 2
        normed += config.depths[stage] * grid.tokens * norms * dim
        more += config.depths[stage] * grid.tokens * 4 * dim  # the depthwise convolution's bias
        if stage < 3:
            merged = grids[stage + 1].tokens
            more += merged * 4 * (4 * dim)  # 12 offset channels where there are 8
            more += merged * (12 + 2 * dim)  # biases
            batch_normed += merged * 2 * dim
    more += (config.dim << 3) * grids[0].tokens // 16  # the pooling before the head
    # It takes each element of a norm for one, and leaves out the last norm; fvcore takes 5 for each
    # of a LayerNorm and 2 of a BatchNorm, as everywhere here.
    more += normed + batch_normed
    less = 5 * (normed + grids[3].tokens * (config.dim << 3)) + 2 * batch_normed
    eager = spec(name, {}).make(224, 224, impl="eager")
    found = _fvcore.count(eager, (1, 3, 224, 224))
    assert found.total == formula_macs(config, 224, 224) - more + less


# Checkpoints


def listed(
    dim: int, depths: tuple[int, ...], heads: tuple[int, ...], alpha: float
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every key of the authors' checkpoint, and its shape, written out."""
    yield "patch_embed.proj.weight", (dim, 3, 4, 4)
    yield "patch_embed.proj.bias", (dim,)
    yield "patch_embed.norm.weight", (dim,)
    yield "patch_embed.norm.bias", (dim,)
    for stage, depth in enumerate(depths):
        c = dim * 2**stage
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}"
            yield f"{at}.norm2.weight", (c,)
            yield f"{at}.norm2.bias", (c,)
            yield f"{at}.mlp.fc1.weight", (4 * c, c)
            yield f"{at}.mlp.fc1.bias", (4 * c,)
            yield f"{at}.mlp.dwconv.dwconv.weight", (4 * c, 1, 3, 3)
            yield f"{at}.mlp.dwconv.dwconv.bias", (4 * c,)
            yield f"{at}.mlp.fc2.weight", (c, 4 * c)
            yield f"{at}.mlp.fc2.bias", (c,)
            if stage < 2:
                continue
            yield f"{at}.norm1.weight", (c,)
            yield f"{at}.norm1.bias", (c,)
            low = c if stage == 3 else int(heads[stage] * alpha) * (c // heads[stage])
            high = c - low
            if low:
                yield f"{at}.attn.l_q.weight", (low, c)
                yield f"{at}.attn.l_q.bias", (low,)
                yield f"{at}.attn.l_kv.weight", (2 * low, c)
                yield f"{at}.attn.l_kv.bias", (2 * low,)
                yield f"{at}.attn.l_proj.weight", (low, low)
                yield f"{at}.attn.l_proj.bias", (low,)
            if high:
                yield f"{at}.attn.h_qkv.weight", (3 * high, c)
                yield f"{at}.attn.h_qkv.bias", (3 * high,)
                yield f"{at}.attn.h_proj.weight", (high, high)
                yield f"{at}.attn.h_proj.bias", (high,)
        if stage < 3:
            at = f"layers.{stage}.downsample"
            yield f"{at}.dconv.weight", (2 * c, c, 2, 2)
            yield f"{at}.dconv.bias", (2 * c,)
            yield f"{at}.dconv.conv_offset.weight", (8, c, 2, 2)
            yield f"{at}.dconv.conv_offset.bias", (8,)
            for name in ("weight", "bias", "running_mean", "running_var"):
                yield f"{at}.norm_layer.{name}", (2 * c,)
            yield f"{at}.norm_layer.num_batches_tracked", ()
    yield "norm.weight", (8 * dim,)
    yield "norm.bias", (8 * dim,)
    yield "head.weight", (1000, 8 * dim)
    yield "head.bias", (1000,)


@pytest.mark.parametrize(
    ("name", "alpha"),
    [("litv2_s", 0.9), ("litv2_m", 0.9), ("litv2_b", 0.9), ("litv2_s", 0.0), ("litv2_s", 1.0)],
)
def test_the_checkpoint_has_these_keys(name: str, alpha: float) -> None:
    """No key more, none less, each of its shape."""
    config = CONFIGS[name]
    own = {
        key: tuple(tensor.shape) for key, tensor in built(name, alpha=alpha).state_dict().items()
    }
    assert own == dict(listed(config.dim, config.depths, config.heads, alpha))


# What it computes


def test_deformable_taps_in_fp64() -> None:
    """Bilinear sampling at y + dy, x + dx of each tap, zero outside, by loops."""
    torch.manual_seed(1)
    layer = DeformableConv(3, 5).double()
    nn.init.normal_(layer.conv_offset.weight, std=0.3)
    x = torch.randn(2, 3, 6, 4, dtype=torch.float64)
    offset = layer.conv_offset(x)
    expected = torch.zeros(2, 5, 3, 2, dtype=torch.float64)
    for b, o, i, j in torch.cartesian_prod(*map(torch.arange, (2, 5, 3, 2))).tolist():
        total = layer.bias[o].item()
        for tap in range(4):
            y = 2 * i + tap // 2 + offset[b, 2 * tap, i, j].item()
            z = 2 * j + tap % 2 + offset[b, 2 * tap + 1, i, j].item()
            for c in range(3):
                total += layer.weight[o, c, tap // 2, tap % 2].item() * _bilinear(x[b, c], y, z)
        expected[b, o, i, j] = total
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.gathered(x.permute(0, 2, 3, 1)), expected.permute(0, 2, 3, 1))


def _bilinear(plane: Tensor, y: float, x: float) -> float:
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                total += share * plane[row, column].item()
    return total


@given(
    st.integers(2, 9),
    st.integers(2, 9),
    st.floats(-12, 12),
    st.sampled_from(["float32", "float64"]),
)
def test_gathered_taps_are_torchvisions(
    height: int, width: int, shift: float, dtype_name: str
) -> None:
    """Odd maps, and offsets far outside, among them."""
    dtype = getattr(torch, dtype_name)
    torch.manual_seed(height * 16 + width)
    layer = DeformableConv(4, 6).to(dtype)
    nn.init.normal_(layer.conv_offset.weight)
    assert layer.conv_offset.bias is not None
    nn.init.constant_(layer.conv_offset.bias, shift)
    x = torch.randn(2, 4, height, width, dtype=dtype)
    offset = layer.conv_offset(x)
    expected = deform_conv2d(x, offset, layer.weight, layer.bias, stride=2)
    found = layer.gathered(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_corners_share_what_is_inside() -> None:
    """The weights of a place inside add up to one, of a place outside to nothing."""
    y, x = torch.tensor([[1.25, -3.0]]), torch.tensor([[2.5, 9.0]])
    index, weight = corners(y, x, 4, 5)
    assert weight.sum(dim=-1).tolist() == [[1.0, 0.0]]
    assert set(index[0, 0].tolist()) == {7, 8, 12, 13}


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (70, 101)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fused_is_eager(size: tuple[int, int], dtype: torch.dtype) -> None:
    """Same weights, same output, with and without gradients recorded."""
    eager = tiny(*size, impl="eager").eval().to(dtype)
    fused = tiny(*size, impl="fused").eval().to(dtype)
    fused.load_state_dict(eager.state_dict())
    images = torch.randn(3, 3, *size, dtype=dtype)
    with torch.no_grad():
        expected = eager(images)
        torch.testing.assert_close(fused(images), expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(fused(images), expected, rtol=1e-3, atol=1e-4)


def test_fused_has_eagers_gradients() -> None:
    """Of the images and of every parameter."""
    eager, fused = tiny(impl="eager").eval().double(), tiny(impl="fused").eval().double()
    fused.load_state_dict(eager.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found = []
    for model in (eager, fused):
        images = x.clone().requires_grad_()
        model(images).square().sum().backward()
        found.append([images.grad, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(found[1], found[0])


def test_the_blocks_are_those_of_the_paper() -> None:
    """By equations, from the weights alone: stages without attention, with it, and the merging."""
    model = tiny(32, 32, impl="eager").eval().double()
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    weights = dict(model.named_parameters()) | dict(model.named_buffers())

    def layer_norm(x: Tensor, at: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], weights[f"{at}.weight"], weights[f"{at}.bias"])

    def mlp(x: Tensor, at: str) -> Tensor:
        hidden = F.linear(x, weights[f"{at}.fc1.weight"], weights[f"{at}.fc1.bias"])
        kernel = weights[f"{at}.dwconv.dwconv.weight"]
        bias = weights[f"{at}.dwconv.dwconv.bias"]
        hidden = F.conv2d(
            hidden.permute(0, 3, 1, 2), kernel, bias, padding=1, groups=len(kernel)
        ).permute(0, 2, 3, 1)
        return F.linear(F.gelu(hidden), weights[f"{at}.fc2.weight"], weights[f"{at}.fc2.bias"])

    x = F.conv2d(
        images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4
    )
    x = layer_norm(x.permute(0, 2, 3, 1), "patch_embed.norm")
    for stage, depth in enumerate(TINY.depths):
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}"
            if stage >= 2:
                x = x + model.get_submodule(f"{at}.attn")(layer_norm(x, f"{at}.norm1"))
            x = x + mlp(layer_norm(x, f"{at}.norm2"), f"{at}.mlp")
        if stage < 3:
            at = f"layers.{stage}.downsample"
            merged = model.get_submodule(f"{at}.dconv")(x.permute(0, 3, 1, 2))
            at = f"{at}.norm_layer"
            mean, variance = weights[f"{at}.running_mean"], weights[f"{at}.running_var"]
            merged = F.batch_norm(
                merged, mean, variance, weights[f"{at}.weight"], weights[f"{at}.bias"]
            )
            x = F.gelu(merged).permute(0, 2, 3, 1)
    x = layer_norm(x, "norm").mean(dim=(1, 2))
    expected = F.linear(x, weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(model(images), expected)


@pytest.mark.parametrize(
    ("size", "maps"),
    [
        ((224, 224), [(56, 56), (28, 28), (14, 14), (7, 7)]),
        ((333, 500), [(84, 125), (42, 62), (21, 31), (10, 15)]),
        ((65, 64), [(17, 16), (8, 8), (4, 4), (2, 2)]),
    ],
)
def test_a_pyramid_at_any_size(size: tuple[int, int], maps: list[tuple[int, int]]) -> None:
    """Patches are padded, merging rounds down; each map goes through a norm of its own."""
    model = tiny(*size, features_only=True).eval()
    with torch.no_grad():
        found = model(torch.randn(1, 3, *size))
    assert [tuple(one.shape[2:]) for one in found] == maps
    assert [one.shape[1] for one in found] == model.channels == [24, 48, 96, 192]
    names = {key.split(".")[0] for key in model.state_dict()}
    assert names == {"patch_embed", "layers", "norm0", "norm1", "norm2", "norm3"}


def test_a_classifiers_pyramid_is_its_own() -> None:
    """features_only gives what the classifier has before each merging, normalised."""
    whole, pyramid = tiny().eval(), tiny(features_only=True).eval()
    pyramid.load_state_dict(whole.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last = pyramid(images)[-1].mean(dim=(2, 3))  # norm3 is fresh: weight 1, bias 0, as norm is
        torch.testing.assert_close(whole.head(last), whole(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", ["sra", "msa", "window", "xca", "twins_lsa+twins_gsa"])
def test_any_mechanism_inside(attention: str) -> None:
    """It stands in stage 3; stage 4 keeps its full attention."""
    model = LITv2(configured(TINY, {"attention": attention}, {}), 64, 64, num_classes=3).eval()
    kinds = {type(block.attn).__module__ for block in model.layers[2].blocks}  # type: ignore[union-attr] # a Stage of Blocks
    assert kinds == {attentions.load(name).module.__module__ for name in attention.split("+")}
    assert type(model.layers[3].blocks[0].attn).__module__ == "attentions.hilo"  # type: ignore[union-attr, index] # a Stage of Blocks
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_what_the_mechanism_refuses_is_told() -> None:
    """With the stage's name."""
    config = dataclasses.replace(TINY, attention="hilo", params={"hilo": {"window_size": 0}})
    with pytest.raises(Unsuitable, match="hilo in stage 3: "):
        LITv2(config, 64, 64)


def test_stochastic_depth_grows_with_depth() -> None:
    """From 0 in the first block to the config's in the last; it acts in training only."""
    model = tiny()
    drops = [m.p for m in model.modules() if isinstance(m, StochasticDepth)]
    assert drops == pytest.approx([0.025, 0.05, 0.075, 0.1])
    model.eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images), model(images))


def test_initial_weights_are_the_authors() -> None:
    """Offsets begin at zero, so a merging is a convolution; widths of the distributions."""
    torch.manual_seed(0)
    model = LITv2(TINY, 64, 64)
    model.requires_grad_(False)
    block = model.layers[3].blocks[0]  # type: ignore[index] # a Stage
    assert block.mlp.fc1.weight.std() == pytest.approx(0.02, rel=0.05)  # type: ignore[union-attr] # a Stage of Blocks
    assert block.mlp.dwconv.dwconv.weight.std() == pytest.approx(math.sqrt(2 / 9), rel=0.1)  # type: ignore[union-attr] # a Stage of Blocks
    merging = model.layers[0].downsample.dconv  # type: ignore[union-attr] # a Stage of Blocks
    assert isinstance(merging, DeformableConv)
    assert not merging.conv_offset.weight.any()
    bound = 1 / math.sqrt(4 * 24)  # kaiming_uniform with a = sqrt(5)
    assert merging.weight.abs().max() <= bound
    assert merging.weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    x = torch.randn(1, 24, 6, 6)
    expected = F.conv2d(x, merging.weight, merging.bias, stride=2)
    torch.testing.assert_close(merging(x), expected)
