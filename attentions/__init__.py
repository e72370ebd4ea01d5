"""Attention mechanisms for vision transformers, one file each.

names() lists them, load(name) gives an AttentionSpec, whose module maps a channels-last feature
map (batch, height, width, dim) to one of the same shape. Importing this package imports no torch.
"""

from attentions._registry import (
    BrokenAttention,
    Outline,
    UnknownAttention,
    files,
    import_file,
    load,
    load_file,
    names,
    outline,
    path_of,
)
from attentions._spec import AttentionSpec, Grid, Paper

__all__ = [
    "AttentionSpec",
    "BrokenAttention",
    "Grid",
    "Outline",
    "Paper",
    "UnknownAttention",
    "files",
    "import_file",
    "load",
    "load_file",
    "names",
    "outline",
    "path_of",
]
