"""Inputs from which quantized modules take their ranges, and those that they are checked on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitbench.cases import calibration as images
from vitbench.cases.calibration import Calibration
from vitbench.cases.case import Case
from vitbench.runtimes import Samples

# By channel, of the images of ImageNet.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class _Again:
    """What is made anew each time that it is iterated."""

    make: Callable[[], Iterator[Tensor]]

    def __iter__(self) -> Iterator[Tensor]:
        return self.make()


def normal(case: Case, seed: int) -> Tensor:
    """Random normal input in fp32 on the CPU: zeros time faster than data."""
    generator = torch.Generator().manual_seed(seed)
    # A module may have changed what a new tensor is by default.
    return torch.randn(case.input_shape, generator=generator, dtype=torch.float32, device="cpu")


def of(case: Case, seed: int, calibration: Calibration | None) -> Samples:
    """Of a layer, normal inputs with seeds from this one on; of a backbone, images."""
    if calibration is None:
        seeds = range(seed, seed + images.NORMAL_INPUTS)
        return Samples(_Again(lambda: (normal(case, each) for each in seeds)), "normal inputs")
    return Samples(_Again(lambda: batches(case, calibration)), calibration.source)


def batches(case: Case, calibration: Calibration) -> Iterator[Tensor]:
    """All images; the last batch is filled up with the first ones."""
    read = (_image(path, case) for path in itertools.cycle(calibration.files()))
    for _ in range(images.calls(case.batch_size, calibration)):
        yield torch.stack(list(itertools.islice(read, case.batch_size)))


def _image(path: Path, case: Case) -> Tensor:
    """An image (3, height, width) of the case's size, normalised as those of ImageNet are."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        size = case.image_width, case.image_height
        pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.BICUBIC))
    scaled = torch.tensor(pixels, dtype=torch.float32, device="cpu") / 255
    return ((scaled - torch.tensor(_MEAN)) / torch.tensor(_STD)).permute(2, 0, 1)
