"""Spatial frequencies of feature maps: where in the spectrum the energy of an output lies.

As the frequency magnitudes of arXiv 2205.13213 (LITv2), and in numbers. A frequency is told as a
share of the Nyquist frequency, half a cycle a token, along one axis; in a corner of the spectrum it
is sqrt(2). Pure, no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vitbench.analysis import stats

# What counts as high: frequencies above this share of Nyquist's.
HIGH = 0.5
# Of the energy of a map in float32.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Share:
    """A share of the energy: its mean over images, with the 95% interval of that mean; of a single
    image the ends are not known."""

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Of one output, or of the channels that one group of heads gives.

    layer      its name in the module; "" is the module itself
    group      of heads; "" is all channels
    grid       height and width of the map, tokens
    channels   over which magnitude and energy are averaged
    images     that have any energy beside their mean
    magnitude  (height, width): |F| averaged over channels and images, relative to the largest; the
               mean of the map, frequency zero, is in the centre, at [height // 2][width // 2]
    frequency  of each ring of the spectrum, in shares of Nyquist's
    energy     in each ring, of the energy without the map's mean
    high       in all frequencies above HIGH, of the same
    varying    the energy without the map's mean, of all energy
    """

    layer: str
    group: str
    grid: tuple[int, int]
    channels: int
    images: int
    magnitude: tuple[tuple[float, ...], ...]
    frequency: tuple[float, ...]
    energy: tuple[Share, ...]
    high: Share
    varying: Share

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Spectrum:
        """The inverse of to_dict."""
        return cls(
            **{
                **data,
                "grid": tuple(data["grid"]),
                "magnitude": tuple(tuple(row) for row in data["magnitude"]),
                "frequency": tuple(data["frequency"]),
                "energy": tuple(Share(**share) for share in data["energy"]),
                "high": Share(**data["high"]),
                "varying": Share(**data["varying"]),
            }
        )


def frequencies(height: int, width: int) -> np.ndarray:
    """(height, width): the radial frequency of each coefficient of a 2-D transform, in shares of
    Nyquist's, in the transform's own order."""
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) / 0.5


def rings(height: int, width: int) -> np.ndarray:
    """(height, width): which ring each coefficient lies in. A ring is one coefficient of the
    shorter side wide."""
    return np.rint(frequencies(height, width) * min(height, width) / 2).astype(int)


def of_maps(
    layer: str, group: str, magnitude: np.ndarray, power: np.ndarray, channels: int
) -> Spectrum:
    """The spectrum of the maps of some images.

    magnitude  (images, height, width): |F| averaged over channels, in the transform's own order
    power      (images, height, width): |F|^2 averaged over channels

    Raises ValueError where no image has any energy beside its mean.
    """
    height, width = power.shape[1:]
    varying = power.copy()
    varying[:, 0, 0] = 0.0
    total = varying.sum(axis=(1, 2))
    # What rounding leaves of a constant map is no energy.
    seen = total > _ROUNDING * power.sum(axis=(1, 2))
    if not seen.any():
        raise ValueError("every map is constant: it has no frequencies beside its mean")
    shares = varying[seen] / total[seen, None, None]
    ring = rings(height, width)
    count = ring.max() + 1
    by_ring = np.stack([np.bincount(ring.ravel(), one.ravel(), count) for one in shares])
    high = shares[:, frequencies(height, width) > HIGH].sum(axis=1)
    mean = np.fft.fftshift(magnitude[seen].mean(axis=0))
    return Spectrum(
        layer=layer,
        group=group,
        grid=(height, width),
        channels=channels,
        images=int(seen.sum()),
        magnitude=tuple(map(tuple, (mean / mean.max()).tolist())),
        frequency=tuple((np.arange(count) * 2 / min(height, width)).tolist()),
        energy=tuple(_share(column) for column in by_ring.T),
        high=_share(high),
        varying=_share(total[seen] / power[seen].sum(axis=(1, 2))),
    )


def _share(values: np.ndarray) -> Share:
    """Student's interval of the mean over images, within 0 and 1."""
    mean = float(values.mean())
    if len(values) < 2:
        return Share(mean, None, None)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    half = stats.student_quantile((1 - stats.CONFIDENCE) / 2, len(values) - 1) * error
    return Share(mean, max(0.0, mean - half), min(1.0, mean + half))
