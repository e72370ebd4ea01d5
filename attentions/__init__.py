"""Attention mechanisms for vision transformers, one file each.

names() lists them, load(name) gives an AttentionSpec, whose module maps a channels-last feature
map (batch, height, width, dim) to one of the same shape. Importing this package imports no torch.
"""

from attentions._files import import_file, importable, place_of
from attentions._outline import BrokenAttention, Outline, outline
from attentions._registry import UnknownAttention, files, load, load_file, names, path_of
from attentions._spec import FAMILIES, AttentionSpec, Family, Grid, Paper

__all__ = [
    "FAMILIES",
    "AttentionSpec",
    "BrokenAttention",
    "Family",
    "Grid",
    "Outline",
    "Paper",
    "UnknownAttention",
    "files",
    "import_file",
    "importable",
    "load",
    "load_file",
    "names",
    "outline",
    "path_of",
    "place_of",
]
