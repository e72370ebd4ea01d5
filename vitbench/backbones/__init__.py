"""Whole models. Importing this package imports no torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attentions import BrokenAttention
from attentions._registry import import_file

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneSpec:
    """One backbone. `BackboneSpec(build=make_model)` alone is valid.

    build  `build(image_height, image_width)` gives a module that maps images (batch, 3, height,
           width) to a tensor, or to a list, tuple or dict of tensors; it may take `impl`
    impls  implementations
    macs   closed form, `macs(image_height, image_width)`: MACs of one image
    """

    build: Callable[..., nn.Module]
    impls: tuple[str, ...] = ("eager",)
    macs: Callable[[int, int], int] | None = None

    def make(self, image_height: int, image_width: int, *, impl: str) -> nn.Module:
        """The module; `impl` is passed on where `build` takes it."""
        extra: dict[str, Any] = {}
        if "impl" in inspect.signature(self.build).parameters:
            extra["impl"] = impl
        return self.build(image_height, image_width, **extra)


def load_file(path: Path) -> BackboneSpec:
    """The spec in a plugin file. Raises BrokenAttention, whose message names the file."""
    try:
        module = import_file(path)
    # Whatever a file raises while it is imported, the reader needs the file's name first.
    except Exception as error:
        raise BrokenAttention(
            f"{path.name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    spec = getattr(module, "BACKBONE", None)
    if not isinstance(spec, BackboneSpec):
        raise BrokenAttention(f"{path.name} must define BACKBONE = BackboneSpec(build=...)")
    return spec
