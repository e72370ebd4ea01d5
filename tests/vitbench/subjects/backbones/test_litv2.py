"""LITv2: the published counts, the checkpoints' names, and a pyramid at any size."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import StochasticDepth, deform_conv2d

import attentions
from vitbench.instruments import _macs, macs
from vitbench.subjects.backbones import Unsuitable
from vitbench.subjects.backbones.litv2 import (
    CONFIGS,
    DeformableConv,
    LITv2,
    LITv2Config,
    configured,
    formula_macs,
    grids_on,
    spec,
)

PARAMS = {"litv2_s": 27_844_000, "litv2_m": 48_830_368, "litv2_b": 86_520_704}
TINY = LITv2Config(dim=24, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), drop_path=0.1)


def built(name: str, **params: Any) -> LITv2:
    """A LITv2 on the meta device: names, shapes and counts without weights."""
    with torch.device("meta"):
        return LITv2(configured(CONFIGS[name], params, {}))


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


def giga(config: LITv2Config, size: int = 224) -> float:
    """What the authors' flops() gives, in GMACs."""
    macs = formula_macs(config, size, size)
    assert macs is not None
    return round(macs / 1e9, 3)


@pytest.mark.parametrize("name", PARAMS)
def test_params_are_those_of_the_authors(name: str) -> None:
    """To the last one."""
    assert macs.params(built(name)) == PARAMS[name]


@pytest.mark.parametrize(
    ("name", "size", "published"),
    [
        ("litv2_s", 224, 3.734),
        ("litv2_m", 224, 7.479),
        ("litv2_b", 224, 13.194),
        ("litv2_b", 384, 39.709),
    ],
)
def test_the_formula_gives_the_published_figure(name: str, size: int, published: float) -> None:
    """Of each model."""
    assert giga(CONFIGS[name], size) == published


@pytest.mark.parametrize(
    ("params", "published", "millions"),
    [
        ({"alpha": 0.0}, 3.965, 28.09),
        ({"alpha": 0.2}, 3.881, 27.84),
        ({"alpha": 0.4}, 3.815, 27.70),
        ({"alpha": 0.5}, 3.769, 27.65),
        ({"alpha": 0.7}, 3.742, 27.70),
        ({"alpha": 0.9}, 3.734, 27.84),
        ({"alpha": 1.0}, 3.746, 28.09),
        ({"window_size": 1}, 4.139, None),
        ({"window_size": 2}, 3.734, None),
        ({"window_size": 7}, 3.641, None),
        ({"window_size": 14}, 3.656, None),
        ({"attention": "msa"}, None, 28.09),
        ({"attention": "sra", "sr_ratio": 2}, None, 31.64),
        ({"attention": "window", "window_size": 7}, None, 28.10),
        ({"attention": "twins_lsa+twins_gsa"}, None, 29.86),
        ({"attention": "hilo"}, None, 27.84),
    ],
)
def test_the_tables_over_stage_3(
    params: dict[str, Any], published: float | None, millions: float | None
) -> None:
    """Formula and parameters of LITv2-S, where the authors give them."""
    if published is not None:
        assert giga(configured(CONFIGS["litv2_s"], params, {})) == published
    if millions is not None:
        assert round(macs.params(built("litv2_s", **params)) / 1e6, 2) == millions


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
            more -= merged * 4 * 4 * dim  # sampling at four taps, which it leaves out
    more += (config.dim << 3) * grids[0].tokens // 16  # the pooling before the head
    # It takes each element of a norm for one, and leaves out the last norm; fvcore takes 5 for each
    # of a LayerNorm and 2 of a BatchNorm, as everywhere here.
    more += normed + batch_normed
    less = 5 * (normed + grids[3].tokens * (config.dim << 3)) + 2 * batch_normed
    eager = spec(name, {}).make(224, 224, impl="eager")
    found = _macs.count(eager, (1, 3, 224, 224))
    formula = formula_macs(config, 224, 224)
    assert formula is not None
    assert found.total == formula - more + less


# Checkpoints


Shapes = dict[str, tuple[int, ...]]


def layer(name: str, *shape: int) -> Shapes:
    """A weight and its bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def checkpoint(dim: int, depths: tuple[int, ...], heads: tuple[int, ...], alpha: float) -> Shapes:
    """Every key of the authors' checkpoint, and its shape, written out."""
    shapes = layer("patch_embed.proj", dim, 3, 4, 4) | layer("patch_embed.norm", dim)
    for stage, depth in enumerate(depths):
        c = dim * 2**stage
        for block in range(depth):
            at = f"layers.{stage}.blocks.{block}"
            shapes |= layer(f"{at}.norm2", c)
            shapes |= layer(f"{at}.mlp.fc1", 4 * c, c)
            shapes |= layer(f"{at}.mlp.dwconv.dwconv", 4 * c, 1, 3, 3)
            shapes |= layer(f"{at}.mlp.fc2", c, 4 * c)
            if stage < 2:
                continue
            shapes |= layer(f"{at}.norm1", c)
            low = c if stage == 3 else int(heads[stage] * alpha) * (c // heads[stage])
            high = c - low
            if low:
                shapes |= layer(f"{at}.attn.l_q", low, c)
                shapes |= layer(f"{at}.attn.l_kv", 2 * low, c)
                shapes |= layer(f"{at}.attn.l_proj", low, low)
            if high:
                shapes |= layer(f"{at}.attn.h_qkv", 3 * high, c)
                shapes |= layer(f"{at}.attn.h_proj", high, high)
        if stage < 3:
            at = f"layers.{stage}.downsample"
            shapes |= layer(f"{at}.dconv", 2 * c, c, 2, 2)
            shapes |= layer(f"{at}.dconv.conv_offset", 8, c, 2, 2)
            shapes |= layer(f"{at}.norm_layer", 2 * c)
            shapes |= {f"{at}.norm_layer.running_{name}": (2 * c,) for name in ("mean", "var")}
            shapes[f"{at}.norm_layer.num_batches_tracked"] = ()
    return shapes | layer("norm", 8 * dim) | layer("head", 1000, 8 * dim)


@pytest.mark.parametrize(
    ("name", "alpha"),
    [("litv2_s", 0.9), ("litv2_m", 0.9), ("litv2_b", 0.9), ("litv2_s", 0.0), ("litv2_s", 1.0)],
)
def test_the_checkpoint_has_these_keys(name: str, alpha: float) -> None:
    """No key more, none less, each of its shape."""
    config = CONFIGS[name]
    own = built(name, alpha=alpha).state_dict()
    expected = checkpoint(config.dim, config.depths, config.heads, alpha)
    assert {key: tuple(tensor.shape) for key, tensor in own.items()} == expected


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
    eager, fused = (tiny(impl=impl).eval().double() for impl in ("eager", "fused"))
    fused.load_state_dict(eager.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    expected, found = (
        torch.autograd.grad(model(images).square().sum(), [images, *model.parameters()])
        for model in (eager, fused)
    )
    torch.testing.assert_close(found, expected)


def test_the_blocks_are_those_of_the_paper() -> None:
    """By equations, from the weights alone: stages without attention, with it, and the merging."""
    model = tiny(32, 32, impl="eager").eval().double()
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    weights = dict(model.named_parameters()) | dict(model.named_buffers())

    def of(at: str) -> tuple[Tensor, Tensor]:
        return weights[f"{at}.weight"], weights[f"{at}.bias"]

    def layer_norm(x: Tensor, at: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], *of(at))

    def mlp(x: Tensor, at: str) -> Tensor:
        hidden = F.linear(x, *of(f"{at}.fc1")).permute(0, 3, 1, 2)
        hidden = F.conv2d(hidden, *of(f"{at}.dwconv.dwconv"), padding=1, groups=hidden.shape[1])
        return F.linear(F.gelu(hidden.permute(0, 2, 3, 1)), *of(f"{at}.fc2"))

    x = F.conv2d(images, *of("patch_embed.proj"), stride=4)
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
            merged = F.batch_norm(merged, mean, variance, *of(at))
            x = F.gelu(merged).permute(0, 2, 3, 1)
    x = layer_norm(x, "norm").mean(dim=(1, 2))
    torch.testing.assert_close(model(images), F.linear(x, *of("head")))


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


def test_a_detectors_pyramid_is_the_authors() -> None:
    """In fp64: the map at stride 4 is what the last block of stage 1 gives, the others go through
    norms; its keys are those of the authors' code for detection, none more."""
    plain = tiny(features_only=True).eval().double()
    nn.init.normal_(plain.get_parameter("norm0.weight"))
    detector = tiny(features_only=True, first_norm=1).eval().double()
    weights = plain.state_dict()
    norm0 = [weights.pop(f"norm0.{name}") for name in ("weight", "bias")]
    detector.load_state_dict(weights)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        first, *rest = detector(images)
        expected, *others = plain(images)
        normed = F.layer_norm(first.permute(0, 2, 3, 1), (24,), *norm0)
    torch.testing.assert_close(normed.permute(0, 3, 1, 2), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(rest, others, rtol=0, atol=0)
    assert (first - expected).abs().max() > 0.1


@pytest.mark.parametrize(("task", "norms"), [("detect", (1, 2, 3)), ("segment", (0, 1, 2, 3))])
def test_the_task_decides_on_the_first_norm(task: str, norms: tuple[int, ...]) -> None:
    """Every key of the authors' checkpoint for detection and for segmentation."""
    config = CONFIGS["litv2_s"]
    with torch.device("meta"):
        body = spec("litv2_s", {}).make(64, 64, impl="eager", features_only=True, task=task)
    expected = checkpoint(config.dim, config.depths, config.heads, 0.9)
    expected = {k: v for k, v in expected.items() if not k.startswith(("norm.", "head."))}
    for stage in norms:
        expected |= layer(f"norm{stage}", config.dim << stage)
    assert {key: tuple(value.shape) for key, value in body.state_dict().items()} == expected


@pytest.mark.parametrize("attention", ["sra", "msa", "window", "xca", "twins_lsa+twins_gsa"])
def test_any_mechanism_inside(attention: str) -> None:
    """It stands in stage 3; stage 4 keeps its full attention."""
    model = LITv2(configured(TINY, {"attention": attention}, {}), 64, 64, num_classes=3).eval()
    modules = {
        stage: [type(model.get_submodule(f"layers.{stage}.blocks.{i}.attn")) for i in range(depth)]
        for stage, depth in ((2, 2), (3, 1))
    }
    assert set(modules[2]) == {attentions.load(name).module for name in attention.split("+")}
    assert modules[3] == [attentions.load("hilo").module]
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
    weights = model.state_dict()
    mlp = "layers.3.blocks.0.mlp"
    assert weights[f"{mlp}.fc1.weight"].std() == pytest.approx(0.02, rel=0.05)
    depthwise = weights[f"{mlp}.dwconv.dwconv.weight"]
    assert depthwise.std() == pytest.approx(math.sqrt(2 / 9), rel=0.1)
    merging = model.get_submodule("layers.0.downsample.dconv")
    assert isinstance(merging, DeformableConv)
    assert not merging.conv_offset.weight.any()
    bound = 1 / math.sqrt(4 * 24)  # kaiming_uniform with a = sqrt(5)
    assert merging.weight.abs().max() <= bound
    assert merging.weight.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    x = torch.randn(1, 24, 6, 6)
    torch.testing.assert_close(merging(x), F.conv2d(x, merging.weight, merging.bias, stride=2))


@pytest.mark.parametrize(
    "chosen",
    [
        {"stage4_attention": "msa"},
        {"stage4_attention": "hilo", "stage4_window_size": 2, "stage4_alpha": 0.5},
        {"stage4_window_size": 7, "alpha": 0.0},
        {"attention": "sra", "stage4_attention": "xca"},
    ],
)
def test_stage_4_can_be_chosen(chosen: dict[str, Any]) -> None:
    """Only its blocks change: parameters by those of the modules, MACs by their closed forms."""
    usual = {name: value for name, value in chosen.items() if not name.startswith("stage4_")}
    models, formulas, modules = [], [], []
    for params in (usual, chosen):
        config = configured(CONFIGS["litv2_s"], params, {})
        with torch.device("meta"):
            models.append(LITv2(config))
        formulas.append(formula_macs(config, 224, 224))
        name, own = config.mechanism(3, 0) or ("", {})
        modules.append((attentions.load(name), own))
    (before, of_before), (after, of_after) = modules
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    dim, heads, grid, depth = 768, 24, attentions.Grid(7, 7), 2
    sizes = [
        sum(p.numel() for p in each.build(dim, heads, grid, impl="fused", **own).parameters())
        for each, own in modules
    ]
    assert counts[1] - counts[0] == depth * (sizes[1] - sizes[0])
    assert after.macs is not None
    assert before.macs is not None
    macs_of = [
        each.macs(dim, heads, grid, **own)
        for each, own in ((before, of_before), (after, of_after))
        if each.macs is not None
    ]
    assert formulas[1] is not None
    assert formulas[0] is not None
    assert formulas[1] - formulas[0] == depth * (macs_of[1] - macs_of[0])


def test_the_authors_stage_4_by_name_is_the_authors() -> None:
    """Windows of one token are attention from every token to every token."""
    torch.manual_seed(0)
    named = LITv2(configured(TINY, {"stage4_window_size": 1}, {}), 40, 72, num_classes=3).eval()
    usual = LITv2(TINY, 40, 72, num_classes=3).eval()
    usual.load_state_dict(named.state_dict())
    images = torch.randn(2, 3, 40, 72)
    assert torch.equal(named(images), usual(images))
