"""Whole models. Importing this package imports no torch."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import attentions
from attentions import AttentionSpec, BrokenAttention

if TYPE_CHECKING:
    from torch import nn

LITV2 = ("litv2_s", "litv2_m", "litv2_b")

# What `vitbench tune` chooses from: HiLo's split and windows in stage 3, its windows on the small
# map of stage 4, and other mechanisms of stage 3.
LITV2_SPACE: tuple[Mapping[str, tuple[bool | int | float | str, ...]], ...] = (
    {
        "attention": ("hilo",),
        "window_size": (2, 4, 7),
        "alpha": (0.0, 0.25, 0.5, 0.75, 0.9, 1.0),
    },
    {
        "attention": ("hilo",),
        "stage4_attention": ("hilo",),
        "stage4_window_size": (2, 7),
        "stage4_alpha": (0.0, 0.5, 0.9),
    },
    {"attention": ("msa", "window", "shifted_window", "sra", "linear_sra", "twins_lsa", "xca")},
)

# Rivals by the names of the field, and what timm calls them.
RIVALS: Mapping[str, str] = {
    "cait_xs24": "cait_xs24_384",
    "coatnet_0": "coatnet_0_224",
    "convnext_tiny": "convnext_tiny",
    "efficientvit_b1": "efficientvit_b1",
    "maxvit_tiny": "maxvit_tiny_tf_224",
    "poolformer_s24": "poolformer_s24",
    "pvt_v2_b2": "pvt_v2_b2",
    "resnet50": "resnet50",
    "swin_tiny": "swin_tiny_patch4_window7_224",
    "tnt_s": "tnt_s_patch16_224",
    "twins_pcpvt_small": "twins_pcpvt_small",
    "twins_svt_small": "twins_svt_small",
    "vit_small": "vit_small_patch16_224",
    "xcit_small_12_p16": "xcit_small_12_p16_224",
}

# Where timm's model is another than the paper's. CoAtNet's convolution blocks halve the map in
# their first convolution, Conv(DepthConv(Conv(Norm(x), stride=2))) (arXiv 2106.04803); timm's do in
# the next one.
AS_PUBLISHED: Mapping[str, Mapping[str, Any]] = {"coatnet_0": {"conv_stride_mode": "1x1"}}

# Strides of the maps that a feature pyramid is built on.
STRIDES = (4, 8, 16, 32)


class Unsuitable(ValueError):
    """The backbone cannot be built for this size or task; the message is the reason, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """One backbone. `BackboneSpec(build=make_model)` alone is valid.

    build    `build(image_height, image_width, **params)` gives a module that maps images (batch, 3,
             height, width) to a tensor, or to a list, tuple or dict of tensors. It gets `impl`
             where it names it. For detection and segmentation it takes `features_only`, and then
             gives maps (batch, channels, height, width) at strides 4, 8, 16 and 32; it gets `task`,
             "detect" or "segment", where it names it
    impls    implementations
    macs     closed form, `macs(image_height, image_width)`: MACs of one image
    formula  what the authors' own formula gives, `formula(image_height, image_width, **params)`
    """

    build: Callable[..., nn.Module]
    impls: tuple[str, ...] = ("eager",)
    macs: Callable[[int, int], int] | None = None
    formula: Callable[..., int | None] | None = None

    def __post_init__(self) -> None:
        if not callable(self.build) or (
            hasattr(self.build, "forward") and not isinstance(self.build, type)
        ):
            raise TypeError(
                "build is a function that gives a module, which vitbench calls for each size of "
                f"image, got an object of {type(self.build).__name__}"
            )

    def make(
        self,
        image_height: int,
        image_width: int,
        *,
        impl: str,
        features_only: bool = False,
        task: str = "",
        **params: Any,
    ) -> nn.Module:
        """The module; `impl` and the task that it gives maps for are passed on where `build` names
        them.

        Raises Unsuitable, ValueError where `build` gives no module, and whatever it raises.
        """
        known = inspect.signature(self.build).parameters
        if "impl" in known:
            params["impl"] = impl
        if features_only:
            params["features_only"] = True
            params |= {"task": task} if "task" in known else {}
            is_open = any(word.kind is word.VAR_KEYWORD for word in known.values())
            if not (is_open or "features_only" in known):
                raise Unsuitable("its factory takes no features_only: it gives no pyramid")
        module = self.build(*self._size(image_height, image_width, params), **params)
        from torch import nn

        if not isinstance(module, nn.Module):
            raise ValueError(f"build must give a torch.nn.Module, got {type(module).__name__}")
        return module

    def _size(self, height: int, width: int, named: Mapping[str, Any]) -> tuple[int, ...]:
        """Both, where `build` takes them beside what it gets by name, whatever it calls them."""
        known = inspect.signature(self.build).parameters.values()
        positional = [
            word
            for word in known
            if word.kind in (word.POSITIONAL_ONLY, word.POSITIONAL_OR_KEYWORD)
            and word.name not in named
            and (word.default is word.empty or word.name in ("image_height", "image_width"))
        ]
        return (height, width) if len(positional) == 2 else ()


def attention_of(name: str, plugins: Mapping[str, Path]) -> AttentionSpec:
    """The spec of a mechanism, of the registry or of a plugin."""
    return attentions.load_file(plugins[name]) if name in plugins else attentions.load(name)


def load(name: str, plugins: Mapping[str, Path]) -> BackboneSpec:
    """The spec of a backbone: a plugin's, LITv2, one of timm's, or `module:factory`.

    Raises BrokenAttention for a file or module that cannot be used.
    """
    if name in plugins:
        return load_file(plugins[name])
    if name in LITV2:
        return importlib.import_module(f"{__name__}.litv2").spec(name, plugins)
    if name in RIVALS or name.startswith("timm:"):
        timm_name = RIVALS.get(name) or name.removeprefix("timm:")
        params = AS_PUBLISHED.get(name, {})
        return importlib.import_module(f"{__name__}.timm_models").spec(timm_name, **params)
    return _factory(name)


def _factory(name: str) -> BackboneSpec:
    """`module:factory`, from anywhere that Python finds it, the current folder last."""
    module_name, _, factory_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    module = _imported(module_name, lambda: importlib.import_module(module_name))
    factory = getattr(module, factory_name, None)
    if isinstance(factory, BackboneSpec):
        return factory
    if not callable(factory):
        raise BrokenAttention(f"{module_name} has no factory {factory_name!r}")
    return BackboneSpec(build=factory)


def load_file(path: Path) -> BackboneSpec:
    """The spec in a plugin file. Raises BrokenAttention, whose message names the file."""
    module = _imported(path.name, lambda: attentions.import_file(path), path)
    spec = getattr(module, "BACKBONE", None)
    if not isinstance(spec, BackboneSpec):
        raise BrokenAttention(f"{path.name} must define BACKBONE = BackboneSpec(build=...)")
    return spec


def _imported(
    name: str, importer: Callable[[], ModuleType], path: Path | None = None
) -> ModuleType:
    try:
        return importer()
    # Whatever a module raises while it is imported, the reader needs its name first.
    except (Exception, SystemExit) as error:
        place = "" if path is None else attentions.place_of(error, path)
        raise BrokenAttention(
            f"{name} cannot be imported: {type(error).__name__}: {error}"
            + (f" (raised at {place})" if place else "")
        ) from error
