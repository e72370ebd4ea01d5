"""What every mechanism owes, tested for whatever file lies in attentions/.

A new mechanism is covered as soon as its file and its tests/attentions/test_<name>.py exist; one
without that test file, or without PARAMS in it, fails here.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import attentions
from attentions import Grid
from tests.attentions.budget import assert_within, rms
from tests.attentions.draws import Draw, draws, draws_on, is_sentence, params_of, shake
from vitbench.instruments import _dispatch

NAMES = attentions.names()
# Read without importing torch's mechanisms, so that one broken file fails its own tests only.
OUTLINES = {name: attentions.outline(attentions.path_of(name)) for name in NAMES}
FUSED = [name for name in NAMES if "fused" in (OUTLINES[name].impls or ())]
EVERY_IMPL = [
    pytest.param(name, impl, id=f"{name}-{impl}")
    for name in NAMES
    for impl in OUTLINES[name].impls or ("eager",)
]

SQUARE, ODD, OBLONG = Grid(8, 8), Grid(7, 7), Grid(12, 5)
AWKWARD = [
    pytest.param(grid, id=f"{grid.height}x{grid.width}", marks=marks)
    for grid, marks in (
        (Grid(1, 1), ()),
        (Grid(2, 3), ()),
        (Grid(13, 29), ()),
        (Grid(50, 80), pytest.mark.slow),
    )
]

# Mechanisms in which one image changes the output of another, by their authors' definition.
# (performer does under its setting key_max="batch", which its own tests hold.)
MIXES_IMAGES: dict[str, str] = {}

# On maps of thousands of tokens: dat reads a bias for each pair of a token and a point between the
# entries of its table, in fp64 16 million reads a head and ten seconds. A point for every fourth
# token in a row and column leaves the same sums over the same map.
ON_LARGE_MAPS: dict[str, dict[str, Any]] = {"dat": {"stride": 4}}

# Operators that make positions, indices and masks, and what may be made at each call: dat's centres
# would be rounded in a buffer, and the numbers of quadtree's heads and of bi_level's regions depend
# on the batch. dat's bias depends on the image, by its definition.
MAKERS = {
    "arange", "linspace", "zeros", "new_zeros", "full", "new_full", "ones", "new_ones", "where",
    "masked_fill", "eq", "ne", "lt", "le", "gt", "ge", "meshgrid", "cartesian_prod",
}  # fmt: skip
MADE_AT_EACH_CALL = {"bi_level": {"arange"}, "dat": {"linspace"}, "quadtree": {"arange"}}
BIAS_OF_AN_IMAGE = {"dat"}


def first_draw(name: str, *grids: Grid) -> Draw:
    """A supported case on the first of the grids that supports one."""
    for grid in grids:
        for draw in draws_on(name, grid, 1):
            return draw
    raise AssertionError(f"{name} supports none of {', '.join(map(str, grids))}")


def small_draw(name: str) -> Draw:
    """The narrowest of some supported cases with more than one head, where one has: for what takes
    longer the more operators there are, and not the wider they are.
    """
    for grid in (OBLONG, SQUARE):
        if cases := draws_on(name, grid, 10):
            return min(cases, key=lambda draw: (draw.num_heads == 1, draw.num_heads, draw.dim))
    raise AssertionError(f"{name} supports neither {OBLONG} nor {SQUARE}")


def reference(draw: Draw, module: nn.Module) -> nn.Module:
    """The eager implementation in fp64, with the module's weights as they are rounded."""
    definition = draw.build("eager").double()
    definition.load_state_dict(module.state_dict())
    return definition


def narrow(name: str, grid: Grid, **params: Any) -> Draw:
    """The authors' settings at stride 16, at 2 heads of 8 channels or the next that is supported.

    Narrow, for what is tested is a large map.
    """
    large = ON_LARGE_MAPS.get(name, {}) if grid.tokens > 1000 else {}
    settings = attentions.load(name).settings_at(16) | large | params
    widths = ((16, 2), (24, 3), (32, 2), (64, 4), (96, 6))
    tried = [Draw(name, dim, heads, grid, settings) for dim, heads in widths]
    return next((draw for draw in tried if draw.reason is None), tried[0])


@pytest.mark.parametrize("name", NAMES)
def test_every_mechanism_names_its_params(name: str) -> None:
    """PARAMS holds values for hyper-parameters that exist, and leaves none of them out."""
    assert set(params_of(name)) == set(defaults_of(name))


@pytest.mark.parametrize(("name", "impl"), EVERY_IMPL)
def test_maps_a_channels_last_map_to_one_of_the_same_shape(name: str, impl: str) -> None:
    """(batch, height, width, dim) goes in and comes out, in the input's dtype."""
    for draw in draws(name, 8):
        out = draw.build(impl)(draw.input(batch=2))
        assert out.shape == (2, draw.grid.height, draw.grid.width, draw.dim)
        assert out.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("name", FUSED)
def test_fused_is_eager(name: str, dtype: torch.dtype) -> None:
    """Output and every gradient of the fused implementation are those of the equations."""
    cases = [draw for grid in (SQUARE, ODD, OBLONG) for draw in draws_on(name, grid, 2)]
    assert cases, f"{name} supports none of {SQUARE}, {ODD}, {OBLONG}"
    for draw in cases:
        fused = shake(draw.build("fused")).to(dtype)
        x, cotangent = draw.input(batch=2).to(dtype), draw.input(batch=2, seed=1)
        results = with_gradients(fused, x, cotangent)
        expected = with_gradients(reference(draw, fused), x, cotangent)
        assert_within(results.pop("output"), expected.pop("output"), what=f"output {draw}")
        least = max(map(rms, expected.values()))
        for key, result in results.items():
            what = f"gradient of {key} {draw}"
            assert_within(result, expected[key], what=what, times=2, least=least)


def with_gradients(module: nn.Module, x: Tensor, cotangent: Tensor) -> dict[str, Tensor]:
    """Output, and the gradients of the input and of each parameter, by name."""
    parameters = dict(module.named_parameters())
    dtype = next(iter(parameters.values())).dtype if parameters else x.dtype
    x = x.detach().to(dtype).requires_grad_()
    out = module(x)
    gradients = torch.autograd.grad(
        out, [x, *parameters.values()], cotangent.to(dtype), materialize_grads=True
    )
    return dict(zip(["output", "input", *parameters], [out.detach(), *gradients], strict=True))


@pytest.mark.parametrize("name", FUSED)
def test_parameters_have_the_same_names_in_every_implementation(name: str) -> None:
    """Weights go from one implementation to the other: same keys, same shapes."""
    for draw in draws(name, 4):
        shapes = [
            {key: value.shape for key, value in draw.build(impl).state_dict().items()}
            for impl in ("eager", "fused")
        ]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("name", "impl"), EVERY_IMPL)
def test_gradients_are_derivatives(name: str, impl: str) -> None:
    """gradcheck in fp64 on a tiny map, through the input and every parameter."""
    draw = first_draw(name, Grid(2, 3), Grid(4, 4), Grid(5, 4), Grid(8, 8))
    module = shake(draw.build(impl)).double()
    keys, values = (
        zip(*module.named_parameters(), strict=True) if any_parameter(module) else ((), ())
    )

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        by_name = dict(zip(keys, parameters, strict=True))
        return torch.func.functional_call(module, by_name, (x,))

    x = draw.input().double().requires_grad_()
    assert torch.autograd.gradcheck(function, (x, *values), fast_mode=True)


def any_parameter(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


@pytest.mark.parametrize("side", [14, 32, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_within_its_budget(name: str, dtype: torch.dtype, side: int) -> None:
    """Every implementation in bf16 and fp16 is finite and near the equations in fp64.

    Where a mechanism chooses what it attends to, it is compared where it chooses all there is.
    """
    chooses = attentions.load(name).checked_with
    draw = narrow(name, Grid(side, side), **(chooses if side == 14 else {}))
    assert draw.reason is None, f"{name} should run on {draw.grid}: {draw.reason}"
    x = draw.input().to(dtype)
    with torch.inference_mode():
        module = shake(draw.build("eager")).to(dtype)
        expected = reference(draw, module)(x.double())
        for impl in attentions.load(name).impls:
            result = copy_into(draw.build(impl).to(dtype), module)(x)
            assert result.dtype == dtype
            assert result.isfinite().all()
            if side == 14 or not chooses:
                assert_within(result, expected, what=f"{impl} {draw}")


def copy_into(module: nn.Module, source: nn.Module) -> nn.Module:
    module.load_state_dict(source.state_dict())
    return module


@pytest.mark.parametrize("grid", AWKWARD)
@pytest.mark.parametrize("name", NAMES)
def test_awkward_grids_run_or_say_why_not(name: str, grid: Grid) -> None:
    """Tiny, prime and large oblong maps: equal to the equations in fp64, or a reason in words."""
    draw = narrow(name, grid)
    if draw.reason is not None:
        assert is_sentence(draw.reason)
        with pytest.raises(ValueError, match=r"\w+ \w+"):
            draw.build()
        return
    x = draw.input()
    with torch.inference_mode():
        module = shake(draw.build("eager"))
        expected = reference(draw, module)(x.double())
        for impl in attentions.load(name).impls:
            result = copy_into(draw.build(impl), module)(x)
            assert_within(result, expected, what=f"{impl} {draw}")


@pytest.mark.parametrize(("name", "impl"), EVERY_IMPL)
def test_compiles_to_one_graph(name: str, impl: str) -> None:
    """torch.compile with fullgraph=True succeeds and changes nothing."""
    draw = small_draw(name)
    module, x = shake(draw.build(impl)), draw.input(batch=2)
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize(("name", "impl"), EVERY_IMPL)
def test_exports(name: str, impl: str) -> None:
    """torch.export succeeds and changes nothing."""
    draw = small_draw(name)
    module, x = shake(draw.build(impl)), draw.input(batch=2)
    with torch.no_grad():
        exported = torch.export.export(module, (x,))
        torch.testing.assert_close(exported.module()(x), module(x))


@pytest.mark.parametrize(("name", "impl"), EVERY_IMPL)
def test_images_of_a_batch_do_not_meet(name: str, impl: str) -> None:
    """The output of an image is the same alone and beside others."""
    draw = first_draw(name, OBLONG, SQUARE)
    module = shake(draw.build(impl)).double()
    x = draw.input(batch=3).double()
    x[0] *= 3  # one image louder than the others, so that a shared statistic shows
    with torch.inference_mode():
        together = module(x)
        alone = torch.cat([module(image[None]) for image in x])
    same = torch.allclose(together, alone, rtol=1e-9, atol=1e-11)
    assert same == (name not in MIXES_IMAGES), MIXES_IMAGES.get(name)


@pytest.mark.parametrize("head_dim", [5, 257])
@pytest.mark.parametrize("name", FUSED)
def test_widths_that_no_kernel_likes(name: str, head_dim: int) -> None:
    """Odd and very wide heads: the equations' result, or a reason in words."""
    settings = attentions.load(name).settings_at(16)
    draw = Draw(name, 6 * head_dim, 6, Grid(8, 8), settings)
    if draw.reason is not None:
        assert is_sentence(draw.reason)
        return
    module, x = shake(draw.build("fused")), draw.input(batch=1)
    with torch.inference_mode():
        assert_within(module(x), reference(draw, module)(x.double()), what=str(draw))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", FUSED)
def test_fallbacks_are_stated(name: str, dtype: str) -> None:
    """Where a reason is given the fused implementation dispatches what eager does, else not."""
    spec = attentions.load(name)
    draw = narrow(name, Grid(14, 14))
    reason = None
    if spec.fallback is not None:
        reason = spec.fallback(draw.dim, draw.num_heads, draw.grid, dtype, **draw.params)
    x = draw.input(batch=2).to(getattr(torch, dtype))
    with torch.inference_mode():
        eager, fused = (
            _dispatch.trace(functools.partial(shake(draw.build(impl)).to(x.dtype).eval(), x)).names
            for impl in ("eager", "fused")
        )
    # Without a reason it is not bound to be another in fp16, for which a CPU has few kernels.
    assert eager == fused or reason is None, reason
    assert eager != fused or reason is not None or dtype == "float16"
    assert reason is None or is_sentence(reason)


@pytest.mark.parametrize(("name", "impl"), EVERY_IMPL)
def test_layout_of_the_input_does_not_matter(name: str, impl: str) -> None:
    """A channels-first map seen as channels-last, and a slice, give what a copy of them gives."""
    draw = first_draw(name, OBLONG, SQUARE)
    module = shake(draw.build(impl)).double()
    x = draw.input(batch=2).double()
    channels_first = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    sliced = torch.cat((x, x), dim=2)[:, :, : draw.grid.width]
    with torch.inference_mode():
        expected = module(x)
        for layout in (channels_first, sliced):
            assert not layout.is_contiguous()
            torch.testing.assert_close(module(layout), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("name", "impl"), EVERY_IMPL)
def test_map_may_differ_from_the_one_built_for(name: str, impl: str) -> None:
    """Unless sizes are fixed, a module runs on another map as one built for that map does."""
    if attentions.load(name).size_rule == "fixed":
        return
    built_for, other = Grid(16, 16), Grid(24, 20)
    for draw in draws_on(name, built_for, 3):
        there = replace(draw, grid=other)
        assert there.reason is None
        module = shake(draw.build(impl)).double()
        expected = copy_into(there.build(impl).double(), module)
        x = there.input().double()
        with torch.inference_mode():
            torch.testing.assert_close(module(x), expected(x), rtol=1e-9, atol=1e-11)


class BiasOf(TorchFunctionMode):
    """Keeps the biases that scaled_dot_product_attention is given."""

    def __init__(self) -> None:
        super().__init__()
        self.biases: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        bias = (kwargs or {}).get("attn_mask")
        if func is torch.nn.functional.scaled_dot_product_attention and bias is not None:
            self.biases.append(bias)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in FUSED if name not in BIAS_OF_AN_IMAGE])
def test_a_bias_is_given_once_for_all_images(name: str) -> None:
    """What the attention kernel gets as a bias does not grow with the batch, not even as a view:
    on CUDA the kernel pads it, and so copies an expanded one.
    """
    draw = narrow(name, Grid(14, 14))
    module, shapes = draw.build("fused"), []
    for batch in (1, 3):
        with torch.inference_mode(), BiasOf() as seen:
            module(draw.input(batch))
        shapes.append([bias.shape for bias in seen.biases])
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("name", "impl"), EVERY_IMPL)
def test_positions_are_not_made_anew_at_each_call(name: str, impl: str) -> None:
    """On the map that it was built for, a module dispatches no operator that makes a tensor of
    numbers known before, or compares them.
    """
    draw = narrow(name, Grid(14, 14))
    module, x = draw.build(impl), draw.input()
    with torch.inference_mode():
        made = MAKERS & set(_dispatch.trace(functools.partial(module, x)).names)
    assert made <= MADE_AT_EACH_CALL.get(name, set())


@pytest.mark.parametrize("name", NAMES)
def test_input_is_left_as_it_was(name: str) -> None:
    """No implementation writes into its input."""
    draw = first_draw(name, OBLONG, SQUARE)
    x = draw.input()
    before = x.clone()
    for impl in attentions.load(name).impls:
        with torch.inference_mode():
            draw.build(impl)(x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("name", NAMES)
def test_outline_says_what_load_says(name: str) -> None:
    """What is read from the file's text is what importing it gives."""
    spec, outline = attentions.load(name), attentions.outline(attentions.path_of(name))
    assert spec.paper is not None
    assert outline.year == spec.paper.year
    assert outline.keywords == defaults_of(name)
    assert outline.settings == spec.settings
    for field in ("size_rule", "cost", "kernels", "equation"):
        assert outline.words.get(field, "") == getattr(spec, field)
    assert outline.impls == spec.impls
    assert outline.summary.endswith(".")
    for stride in (4, 8, 16, 32):
        assert outline.settings_at(stride) == spec.settings_at(stride)


def defaults_of(name: str) -> dict[str, Any]:
    """The hyper-parameters of a mechanism, with their defaults."""
    params = attentions.load(name).params
    assert params is not None
    return dataclasses.asdict(params())


@pytest.mark.parametrize("name", NAMES)
def test_params_are_frozen_and_hold_the_settings(name: str) -> None:
    """One immutable object of hyper-parameters, of which the authors' settings name some."""
    spec = attentions.load(name)
    assert spec.params is not None
    assert spec.params.__dataclass_params__.frozen
    for settings in spec.settings.values():
        assert settings.keys() <= defaults_of(name).keys()


@pytest.mark.parametrize("name", NAMES)
def test_spec_is_filled(name: str) -> None:
    """Paper, equation, cost and MACs are stated; padding is declared where it happens."""
    spec = attentions.load(name)
    assert spec.paper is not None
    assert spec.paper.link.startswith("https://arxiv.org/abs/")
    assert spec.paper.code.startswith("https://")
    assert spec.equation
    assert "\n" not in spec.equation
    assert spec.cost
    assert spec.traps
    assert spec.macs is not None
    assert "eager" in spec.impls
    assert (spec.computed is not None) == (spec.size_rule == "pad")
    assert spec.kernels or "fused" not in spec.impls


@pytest.mark.parametrize("name", NAMES)
def test_computed_grid_holds_the_map(name: str) -> None:
    """Padding never cuts."""
    computed = attentions.load(name).computed
    if computed is None:
        return
    for draw in draws(name, 20):
        padded = computed(draw.grid, **draw.params)
        assert padded.height >= draw.grid.height
        assert padded.width >= draw.grid.width
