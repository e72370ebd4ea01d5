"""Case -> module, inputs and the call that is measured."""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import attentions
from attentions import BrokenAttention
from vitbench import devices, runtimes
from vitbench.cases import backbone_names, class_names
from vitbench.cases.calibration import Calibration
from vitbench.cases.case import Case
from vitbench.devices import Call
from vitbench.instruments import Counts
from vitbench.instruments.correctness import tensors_in
from vitbench.subjects import backbones, classes, samples, wrappers
from vitbench.subjects.backbones import BackboneSpec
from vitbench.subjects.backbones.weights import load_into
from vitbench.subjects.classes import attention_of

Plugins = Mapping[str, Path]


class Unsupported(Exception):
    """The mechanism cannot run this case; the message is the reason, in words."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured.

    module    on the device, in the dtype, eval() unless trained
    runnable  what is run: the module, or the wrapper that computes it here
    device    that it is on
    x         attention: map (batch, height, width, dim); backbone: images (batch, 3, height, width)
    dtype     in which it is to be computed: that of the tensors, or int8
    samples   inputs of a module to be quantized, which are not `x`
    """

    module: nn.Module
    runnable: nn.Module
    device: devices.Device
    x: Tensor
    dtype: str
    samples: Callable[[], runtimes.Samples]

    @property
    def call(self) -> Call:
        """One forward pass, or one training step, of the module as it is."""
        return self.calling(self.runnable)

    def calling(self, runnable: Callable[[Tensor], Any]) -> Call:
        """The same of what runs the module; an inference is called under inference_mode."""
        if self.module.training:
            return training_step(self.module, runnable, self.x)
        return lambda: runnable(self.x)

    def another_input(self) -> Tensor:
        """Of the same kind as `x`. Of images others: the outputs for an image and its mirror image
        are nearly those of a constant."""
        if self.dtype == runtimes.INT8:
            first = torch.cat(list(itertools.islice(self.samples().inputs, 2)))
            return first.roll(-1, 0)[: len(self.x)]
        return torch.randn_like(self.x)


_SPECS: dict[tuple[str, tuple[tuple[str, Path], ...]], BackboneSpec] = {}


def backbone_of(case: Case, plugins: Plugins) -> BackboneSpec:
    """The spec of a case's backbone. Raises attentions.BrokenAttention."""
    key = case.backbone, tuple(sorted(plugins.items()))
    if key not in _SPECS:
        _SPECS[key] = backbones.load(case.backbone, plugins)
    return _SPECS[key]


def seed_of(case: Case) -> int:
    """A seed shared by the cases that should hold equal weights: all but impl, dtype and device."""
    words = (case.subject, case.params, case.grid_height, case.grid_width, case.dim, case.num_heads)
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:6], "big")


def build_module(
    case: Case,
    plugins: Plugins,
    impl: str,
    checkpoint: Path | None = None,
    on_loaded: Callable[[str], object] = lambda done: None,
) -> nn.Module:
    """The module in fp32 on the CPU, its weights drawn from the case's seed, or a backbone's from a
    checkpoint; `on_loaded` gets what was done to the names in that. Raises Unsupported, BadWeights.
    """
    torch.manual_seed(seed_of(case))
    if case.backbone:
        try:
            return _backbone(case, plugins, impl, checkpoint, on_loaded)
        except backbones.Unsuitable as reason:
            raise Unsupported(str(reason)) from None
    why_not = reason_against(case, plugins)
    if why_not is not None:
        raise Unsupported(why_not)
    mechanism = attention_of(case.attention, plugins)
    return mechanism.build(case.dim, case.num_heads, case.grid, impl=impl, **dict(case.params))


def check_classes(case: Case, plugins: Mapping[str, Path]) -> None:
    """Imports the classes of packages that a case runs, and builds its layer. Raises
    BrokenAttention where one is not to be had, or gets settings that it does not take; whatever
    else it raises is for the row of its case.
    """
    for name in class_names.classes_of(case):
        classes.load(name)
    if not case.attention:
        return
    try:
        build_module(case, plugins, case.impl)
    except BrokenAttention:
        raise
    except (Exception, SystemExit):  # it may depend on the size, and other cases be well
        return


def _backbone(
    case: Case,
    plugins: Plugins,
    impl: str,
    checkpoint: Path | None,
    on_loaded: Callable[[str], object],
) -> nn.Module:
    """The backbone, under its head where it has one to carry."""
    spec, params = backbone_of(case, plugins), dict[str, Any](case.params)
    size = case.image_height, case.image_width
    if case.head:
        from vitbench.subjects.backbones import dense

        if "task" in inspect.signature(spec.make).parameters:  # an older tree's has none, in `ab`
            params["task"] = backbone_names.task_of(case.head)
        body = spec.make(*dense.padded(case.head, *size), impl=impl, features_only=True, **params)
    else:
        body = spec.make(*size, impl=impl, **params)
    if checkpoint is not None:
        on_loaded(load_into(body, checkpoint))
    else:
        _draw_zeros(body)
    return dense.build(body, case.head, *size) if case.head else body


def _draw_zeros(module: nn.Module) -> None:
    """Draws the parameters that training starts at zero, in place, as the others are drawn: what
    they alone reach, such as where a deformable convolution samples, or a whole residual branch,
    would not be in the output, and no check would see it."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point() and not parameter.any():
                parameter.normal_(std=0.02)


def reference_impl(case: Case, plugins: Plugins) -> str:
    """The implementation that defines the others."""
    spec = backbone_of(case, plugins) if case.backbone else attention_of(case.attention, plugins)
    return "eager" if "eager" in spec.impls else spec.impls[0]


def build_input(case: Case, calibration: Calibration | None = None) -> Tensor:
    """In fp32 on the CPU: random normal, but of a quantized backbone images, whose ranges are those
    that it was quantized for: those of the calibration, mirrored."""
    if calibration is None:
        return samples.normal(case, seed_of(case) + 1)
    return next(samples.batches(case, calibration)).flip(-1)


def closed_form_macs(case: Case, plugins: Plugins) -> int | None:
    """MACs of one image by the spec's own formula, where it has one. Raises ValueError where that
    is no count.
    """
    if case.backbone:
        formula = backbone_of(case, plugins).macs
        macs = None if formula is None else formula(case.image_height, case.image_width)
    else:
        spec = attention_of(case.attention, plugins)
        arguments = (case.dim, case.num_heads, case.grid)
        macs = None if spec.macs is None else spec.macs(*arguments, **dict(case.params))
    if macs is not None and not (isinstance(macs, int) and 0 <= macs < 2**63):
        raise ValueError(f"macs must be a whole number of at least 0, got {macs!r}"[:200])
    return macs


def formula_macs(case: Case, plugins: Plugins) -> int | None:
    """MACs of one image by the formula that the backbone's authors publish figures by; None where
    there is none, or it is not for this task or attention."""
    if not case.backbone or case.head:
        return None
    formula = backbone_of(case, plugins).formula
    size = case.image_height, case.image_width
    return None if formula is None else formula(*size, **dict(case.params))


def counts(case: Case, plugins: Plugins, module: nn.Module) -> Counts:
    """What MACs are counted from, by the definition.

    module  of the case, which has run: it knows the maps that the head gets
    """
    return Counts(
        functools.partial(_parts, case, plugins, module),
        functools.partial(closed_form_macs, case, plugins),
        functools.partial(formula_macs, case, plugins),
    )


def _parts(
    case: Case, plugins: Plugins, module: nn.Module
) -> Mapping[str, tuple[nn.Module, tuple[int, ...]]]:
    eager = build_module(case, plugins, reference_impl(case, plugins))
    if not case.head:
        return {"": (eager, (1, *case.input_shape[1:]))}
    from vitbench.subjects.backbones import dense

    assert isinstance(eager, dense.Detector | dense.Segmenter)
    assert isinstance(module, dense.Detector | dense.Segmenter)
    image = dense.padded(case.head, case.image_height, case.image_width)
    return dense.parts(eager, module.pyramid.shapes, image)


def checked_with(case: Case, plugins: Plugins) -> Mapping[str, Any]:
    """Hyper-parameters under which the output is compared with the definition."""
    mechanisms = case.attention
    if case.backbone in backbones.LITV2:
        mechanisms = str(dict(case.params)["attention"])
    names = mechanisms.split("+") if mechanisms else ()
    return {k: v for name in names for k, v in attention_of(name, plugins).checked_with.items()}


def reason_against(case: Case, plugins: Plugins) -> str | None:
    """Why the mechanism cannot run the case; None where it can."""
    spec, params = attention_of(case.attention, plugins), dict[str, Any](case.params)
    return spec.reason_against(case.dim, case.num_heads, case.grid, **params)


def is_cast(case: Case, plugins: Plugins) -> bool:
    """Whether the case is computed in fp32, because this CPU emulates products in its dtype.

    Only `fused` is, and no training step: a backward pass needs what the layers kept in their own
    dtype. What multiplies nothing, as pooling, stays in its dtype.
    """
    on_host = devices.rules(case.device).is_host
    fast = on_host and case.impl == "fused" and case.mode == "forward"
    if not (fast and wrappers.is_emulated(getattr(torch, case.tensor_dtype))):
        return False
    try:
        return closed_form_macs(case, plugins) != 0
    except Exception:  # a user's formula may raise anything, and what it is wrong in is told there
        return True


def computed_dtype(case: Case, plugins: Plugins) -> str:
    """The dtype in which a call computes, whatever dtype its input and output have."""
    return "float32" if is_cast(case, plugins) else case.tensor_dtype


def dtypes_computed(device: devices.Device, dtypes: Iterable[str]) -> tuple[str, ...]:
    """The dtypes in which cases of these dtypes may compute on a device, which may refuse some."""
    dtypes = [name for name in dtypes if device.refuses(name) is None]
    is_host = devices.rules(device.name).is_host
    cast = any(is_host and wrappers.is_emulated(getattr(torch, name)) for name in dtypes)
    return tuple(dict.fromkeys([*dtypes, *(["float32"] if cast else [])]))


def fallback(case: Case, plugins: Plugins) -> str:
    """What the fused implementation does in place of its kernels here, and why; empty where it runs
    them."""
    if is_cast(case, plugins):
        return f"computes in float32: this CPU emulates {case.dtype}"
    if case.impl != "fused" or case.backbone:
        return ""
    of_mechanism = attention_of(case.attention, plugins).fallback
    if of_mechanism is None:
        return ""
    return (
        of_mechanism(case.dim, case.num_heads, case.grid, case.tensor_dtype, **dict(case.params))
        or ""
    )


# What modules call their number of heads, beside num_heads.
_HEADS = re.compile(r"(attn_|attention_)?heads|(n|num)_?(attn_|attention_)?heads?|head_num")


def heads_note(case: Case, plugins: Plugins) -> str:
    """That a mechanism has another number of heads than its case, because it takes it by another
    name; "" where it has not."""
    if not case.attention:
        return ""
    target = classes.target_of(attention_of(case.attention, plugins))
    taken = inspect.signature(target).parameters.values()
    if any(word.name == "num_heads" or word.kind is word.VAR_KEYWORD for word in taken):
        return ""
    for name, value in case.params:
        if _HEADS.fullmatch(name) and value != case.num_heads:
            return (
                f"it is built with {name}={value}, as it takes no num_heads: "
                f"--param {case.attention}.{name}={case.num_heads} sets it"
            )
    return ""


def wasted_token_fraction(case: Case, plugins: Plugins) -> float:
    """Padded tokens over computed tokens."""
    computed = None if case.backbone else attention_of(case.attention, plugins).computed
    if computed is None:
        return 0.0
    tokens = computed(case.grid, **dict(case.params)).tokens
    return (tokens - case.grid.tokens) / tokens


def build(
    case: Case,
    plugins: Plugins,
    checkpoint: Path | None = None,
    calibration: Calibration | None = None,
) -> Subject:
    """The subject of a case. Raises Unsupported, BadWeights, and whatever the mechanism raises.

    calibration  the images of backbones in int8
    """
    dtype = getattr(torch, case.tensor_dtype)
    trained = case.mode == "forward_backward"
    device = devices.connect(case.device)
    if reason := device.refuses(case.tensor_dtype):
        raise Unsupported(reason)
    module = build_module(case, plugins, case.impl, checkpoint)
    module = wrappers.converted(module.to(device.target), dtype).train(trained)
    runnable = wrappers.CastedModule(module) if is_cast(case, plugins) else module
    images = calibration if case.backbone and case.dtype == runtimes.INT8 else None
    x = build_input(case, images)
    # Other runtimes get the map by its address, and so with its channels last.
    if case.attention and not runtimes.load(case.runtime).RULES.converts:
        x = _arranged(module, x)
    inputs = functools.partial(samples.of, case, seed_of(case) + 2, images)
    return Subject(module, runnable, device, x.to(device.target, dtype), case.dtype, inputs)


# `vitbench ab` measures trees whose attentions are older than layouts.
_arranged = getattr(attentions, "arranged", lambda module, x: x)


def layout_note(case: Case, module: nn.Module) -> str:
    """The layout that a class of a package takes, where it was found by trying; "" where it was
    named."""
    if not class_names.is_class(case.attention) or class_names.LAYOUT in dict(case.params):
        return ""
    layout = attentions.layout_of(module)
    return f"its layout is {layout}, {attentions.LAYOUTS[layout]}: found by trying"


def training_step(module: nn.Module, runnable: Callable[[Tensor], Any], x: Tensor) -> Call:
    """Forward, and backward to the input and every parameter; gradients are made anew.

    The gradients that arrive are random and made once: their making is not the subject's work.
    """
    x.requires_grad_(True)
    arriving: list[Tensor] = []

    def step() -> Any:
        x.grad = None
        module.zero_grad(set_to_none=True)
        output = runnable(x)
        loss = getattr(module, "loss", None)
        if isinstance(loss, Tensor):  # a head with a loss of its own
            torch.autograd.backward(loss)
            setattr(module, "loss", None)  # noqa: B010 - it is no parameter, as types have it
            return pytree.tree_map_only(Tensor, Tensor.detach, output)
        outputs = [tensor for tensor in tensors_in(output) if tensor.requires_grad]
        if not arriving:
            arriving.extend(torch.randn_like(tensor) for tensor in outputs)
        torch.autograd.backward(outputs, arriving)
        return pytree.tree_map_only(Tensor, Tensor.detach, output)

    return step
