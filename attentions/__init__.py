"""Attention mechanisms for vision transformers, one file each.

names() lists them, load(name) gives an AttentionSpec, which builds modules that map a channels-last
feature map (batch, height, width, dim) to one of the same shape. Importing this package imports no
torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from attentions._files import import_file, importable, place_of
from attentions._outline import (
    BrokenAttention,
    Outline,
    arguments_of,
    names_in,
    outline,
    outline_of_class,
)
from attentions._registry import UnknownAttention, files, load, load_file, names, path_of
from attentions._spec import (
    FAMILIES,
    LAYOUTS,
    STRIDES,
    AttentionSpec,
    Family,
    Grid,
    Layout,
    Paper,
)

if TYPE_CHECKING:
    from attentions._layouts import NoLayout, arranged, fitting, laid_out, layout_of

__all__ = [
    "FAMILIES",
    "LAYOUTS",
    "STRIDES",
    "AttentionSpec",
    "BrokenAttention",
    "Family",
    "Grid",
    "Layout",
    "NoLayout",
    "Outline",
    "Paper",
    "UnknownAttention",
    "arguments_of",
    "arranged",
    "files",
    "fitting",
    "import_file",
    "importable",
    "laid_out",
    "layout_of",
    "load",
    "load_file",
    "names",
    "names_in",
    "outline",
    "outline_of_class",
    "path_of",
    "place_of",
]


def __getattr__(name: str) -> Any:
    """What works on modules, and imports torch."""
    if name in ("NoLayout", "arranged", "fitting", "laid_out", "layout_of"):
        return getattr(importlib.import_module("attentions._layouts"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
