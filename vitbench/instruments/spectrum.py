"""The transforms of what the layers of a module give, of which spectra are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer whose output is read.

    name    in the module
    module  that gives the output
    as_map  what makes maps (batch, height, width, channels) of it
    groups  channels by the group of heads that gives them, in their order; {}: all are one
    """

    name: str
    module: nn.Module
    as_map: Callable[[Any], Tensor]
    groups: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transforms:
    """Of the maps of some images; frequency zero is at [0, 0].

    magnitude  (images, height, width): |F| averaged over channels
    power      (images, height, width): |F|^2 averaged over channels
    """

    layer: str
    group: str
    channels: int
    magnitude: np.ndarray
    power: np.ndarray


def read(run: nn.Module, layers: Sequence[Layer], inputs: Iterable[Tensor]) -> list[Transforms]:
    """The transforms of what the layers give while the module runs on the inputs. Raises ValueError
    for a layer that did not run, and what `as_map` raises.
    """
    import torch

    parts: dict[tuple[str, str], list[Transforms]] = {}

    def hook(layer: Layer) -> Callable[..., None]:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            for group, maps in _groups(layer, layer.as_map(output)):
                part = _transformed(layer.name, group, maps)
                parts.setdefault((layer.name, group), []).append(part)

        return keep

    handles = [layer.module.register_forward_hook(hook(layer)) for layer in layers]
    try:
        with torch.inference_mode():
            for x in inputs:
                run(x)
    finally:
        for handle in handles:
            handle.remove()
    missing = {layer.name for layer in layers} - {name for name, _ in parts}
    if missing:
        raise ValueError(f"layers that did not run: {', '.join(sorted(missing))}")
    return [_joined(each) for each in parts.values()]


def _joined(parts: Sequence[Transforms]) -> Transforms:
    """Those of all images."""
    first = parts[0]
    magnitude = np.concatenate([part.magnitude for part in parts])
    power = np.concatenate([part.power for part in parts])
    return Transforms(first.layer, first.group, first.channels, magnitude, power)


def _groups(layer: Layer, maps: Tensor) -> Iterable[tuple[str, Tensor]]:
    if not layer.groups:
        return [("", maps)]
    parts = maps.split(list(layer.groups.values()), dim=-1)
    return zip(layer.groups, parts, strict=True)


def _transformed(layer: str, group: str, maps: Tensor) -> Transforms:
    """In float64: what rounding adds spreads over all frequencies. NumPy's transform takes any size
    and layout; that of torch on a CPU refuses some.
    """
    values = np.abs(np.fft.fft2(maps.double().cpu().numpy(), axes=(1, 2)))
    mean, square = values.mean(axis=-1), np.square(values).mean(axis=-1)
    return Transforms(layer, group, maps.shape[-1], mean, square)
