"""Which maps of a subject a spectrum is read of, and the images that it is run on."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attentions
from vitbench.analysis import spectrum
from vitbench.analysis.spectrum import Spectrum
from vitbench.cases.calibration import Calibration
from vitbench.cases.case import Case
from vitbench.errors import BadInput, nearest
from vitbench.instruments import spectrum as transforms
from vitbench.instruments.correctness import tensors_in
from vitbench.instruments.spectrum import Layer, Transforms
from vitbench.subjects import backbones, build, samples
from vitbench.subjects.backbones.weights import load_into

# What the images are to a layer: patches, projected and normalised.
INPUT = "input"


def read(
    case: Case,
    plugins: Mapping[str, Path],
    weights: Path | None,
    images: Calibration,
    patterns: Sequence[str],
) -> list[Spectrum]:
    """The spectra of a case's output maps over the images.

    Of an attention layer: of what it is given, and of what it gives. Of a backbone: of the modules
    whose names match a pattern; without patterns, of its attention layers, where they are ours,
    else of the maps that it gives at each stride. Raises BadInput, Unsupported, BadWeights.
    """
    if case.attention:
        module, layers = _layer(case, plugins)
    else:
        module, layers = _backbone(case, plugins, weights, patterns)
    try:
        return [_of(one) for one in transforms.read(module, layers, samples.batches(case, images))]
    except ValueError as error:
        raise BadInput(f"{case.subject}: {error}") from None


def _of(read: Transforms) -> Spectrum:
    """Raises ValueError where the maps are constant."""
    try:
        return spectrum.of_maps(read.layer, read.group, read.magnitude, read.power, read.channels)
    except ValueError as error:
        where = " ".join(filter(None, (read.layer, read.group))) or "its output"
        raise ValueError(f"{where}: {error}") from None


class _Patches(nn.Module):
    """What a layer would see of images: each patch of the stride projected by random weights, the
    same for every layer of a size, and normalised, as a transformer's first layer has it."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Conv2d(3, case.dim, case.stride, case.stride)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, height, width) to (batch, grid.height, grid.width, dim)."""
        maps = self.project(images).permute(0, 2, 3, 1)
        return F.layer_norm(maps, maps.shape[-1:])


def _layer(case: Case, plugins: Mapping[str, Path]) -> tuple[nn.Module, list[Layer]]:
    patches, layer = _Patches(case), build.build_module(case, plugins, case.impl).eval()
    module = nn.Sequential(patches, layer)
    return module, [Layer(INPUT, patches, _channels_last), *_ours("", layer)]


def _ours(name: str, module: nn.Module) -> list[Layer]:
    """All channels of a mechanism, and those of each group of its heads."""
    layers = [Layer(name, module, _channels_last)]
    groups = getattr(module, "head_groups", {})
    return layers if len(groups) < 2 else [*layers, Layer(name, module, _channels_last, groups)]


def _channels_last(output: Any) -> Tensor:
    """What a layer of ours gives is a map already."""
    assert isinstance(output, Tensor)
    return output


def _backbone(
    case: Case, plugins: Mapping[str, Path], weights: Path | None, patterns: Sequence[str]
) -> tuple[nn.Module, list[Layer]]:
    module = build.build_module(case, plugins, case.impl, weights).eval()
    named = {name: child for name, child in module.named_modules() if name}
    size = case.image_height, case.image_width
    if patterns:
        chosen = _matching(named, patterns)
        return module, [Layer(name, named[name], lambda out: as_map(out, *size)) for name in chosen]
    mechanisms = {attentions.load(name).module for name in attentions.names()}
    found = [
        layer
        for name, child in named.items()
        if type(child) in mechanisms
        for layer in _ours(name, child)
    ]
    return (module, found) if found else _stages(case, plugins, weights, sorted(named))


def _matching(named: Mapping[str, nn.Module], patterns: Sequence[str]) -> list[str]:
    """Raises BadInput for a pattern that matches no module."""
    chosen: dict[str, None] = {}
    for pattern in patterns:
        matches = fnmatch.filter(named, pattern)
        if not matches:
            raise BadInput(f"--layer {pattern!r} matches no module; {nearest(pattern, named)}")
        chosen |= dict.fromkeys(matches)
    return list(chosen)


def _stages(
    case: Case, plugins: Mapping[str, Path], weights: Path | None, names: Sequence[str]
) -> tuple[nn.Module, list[Layer]]:
    """A backbone of others: what it gives a feature pyramid."""
    size = case.image_height, case.image_width
    spec, params = build.backbone_of(case, plugins), dict[str, Any](case.params)
    torch.manual_seed(build.seed_of(case))
    try:
        body = spec.make(*size, impl=case.impl, features_only=True, **params)
    except (backbones.Unsuitable, RuntimeError, ValueError, TypeError) as reason:
        raise BadInput(
            f"{case.subject} has no attention of ours, and gives no maps at several strides "
            f"({reason}): name its layers with --layer, such as {names[len(names) // 2]}"
        ) from None
    if weights is not None:
        load_into(body, weights)
    module = _Stages(body.eval()).eval()
    return module, [
        Layer(f"stride {stride}", stage, _channels_first)
        for stride, stage in zip(backbones.STRIDES, module.stages, strict=True)
    ]


def _channels_first(output: Any) -> Tensor:
    assert isinstance(output, Tensor)
    return output.permute(0, 2, 3, 1)


class _Stages(nn.Module):
    """A pyramid, each map of which goes through a module of its own."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.stages = nn.ModuleList(nn.Identity() for _ in backbones.STRIDES)

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps (batch, channels, height, width)."""
        maps = tensors_in(self.body(images))
        return [stage(one) for stage, one in zip(self.stages, maps, strict=True)]


def as_map(output: Any, image_height: int, image_width: int) -> Tensor:
    """What a layer of a model gives, as maps (batch, height, width, channels): of a map with the
    channels last or first, that whose sides are as the image's; of tokens, the last height * width
    of them. Raises ValueError.
    """
    tensors = list(tensors_in(output))
    if len(tensors) != 1 or tensors[0].dim() not in (3, 4):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors) or "no tensor"
        raise ValueError(f"a layer gives one map or one sequence of tokens, got {shapes}")
    (tensor,) = tensors
    if tensor.dim() == 3:
        return _of_tokens(tensor, image_height, image_width)
    last, first = (
        abs(math.log(height * image_width / (width * image_height)))
        for height, width in (tensor.shape[1:3], tensor.shape[2:])
    )
    # Where both fit nobody can tell, and channels are more often last.
    return tensor if last <= first else tensor.permute(0, 2, 3, 1)


def _of_tokens(tensor: Tensor, image_height: int, image_width: int) -> Tensor:
    """Raises ValueError where they are not those of an image at some stride."""
    tokens = tensor.shape[1]
    for stride in range(1, min(image_height, image_width) + 1):
        height, width = image_height // stride, image_width // stride
        first = tokens - height * width
        if 0 <= first <= _MOST_EXTRA:
            return tensor[:, first:].unflatten(1, (height, width))
    raise ValueError(
        f"{tokens} tokens make no map of an image of {image_height} x {image_width} at any stride"
    )


# Class and register tokens, before those of the map.
_MOST_EXTRA = 8
