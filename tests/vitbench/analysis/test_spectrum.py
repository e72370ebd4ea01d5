"""Spectra: energy lies at the frequency that it was put at, and shares are of what there is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitbench.analysis import spectrum
from vitbench.analysis.spectrum import Spectrum

SIDES = st.integers(2, 33)


def of(maps: np.ndarray) -> Spectrum:
    """The spectrum of maps (images, height, width) of one channel."""
    magnitude = np.abs(np.fft.fft2(maps))
    return spectrum.of_maps("", "", magnitude, magnitude**2, 1)


@given(SIDES, SIDES, st.data())
def test_a_grating_has_all_its_energy_at_its_frequency(
    height: int, width: int, data: st.DataObject
) -> None:
    """To one ring, whatever its phase, size and mean; and it is high above half of Nyquist's."""
    down = data.draw(st.integers(0, height // 2))
    across = data.draw(st.integers(0 if down else 1, width // 2))
    phase = data.draw(st.floats(0.1, 1.4))
    y, x = np.mgrid[:height, :width]
    wave = np.sin(2 * math.pi * (down * y / height + across * x / width) + phase)
    found = of(3 + wave[None])
    shares = [share.mean for share in found.energy]
    frequency = 2 * math.hypot(down / height, across / width)
    ring = int(np.argmax(shares))
    assert shares[ring] == pytest.approx(1)
    assert abs(found.frequency[ring] - frequency) <= 1 / min(height, width) + 1e-9
    if abs(frequency - spectrum.HIGH) > 1e-9:
        assert found.high.mean == pytest.approx(float(frequency > spectrum.HIGH), abs=1e-9)
    peaks = np.argwhere(np.array(found.magnitude) > 0.999)
    assert (height // 2, width // 2) in {tuple(peak) for peak in peaks.tolist()}, "the mean: 3"


@given(SIDES, SIDES, st.integers(0, 2**32 - 1))
def test_shares_are_of_all_energy(height: int, width: int, seed: int) -> None:
    """They sum to 1; the mean's energy is apart, by Parseval's theorem."""
    maps = np.random.default_rng(seed).normal(1, 1, (3, height, width))
    found = of(maps)
    assert sum(share.mean for share in found.energy) == pytest.approx(1)
    varying = maps.var(axis=(1, 2)) / np.square(maps).mean(axis=(1, 2))
    assert found.varying.mean == pytest.approx(varying.mean())
    assert 0 <= found.high.mean <= 1 + 1e-9


def test_the_interval_holds_the_mean_of_all_images() -> None:
    """In 95 of 100 draws of twelve images, at least 90 times of 100."""
    draws = np.random.default_rng(0)
    truth = of(draws.normal(size=(4000, 8, 8))).high.mean
    held = 0
    for _ in range(100):
        high = of(draws.normal(size=(12, 8, 8))).high
        assert high.low is not None
        assert high.high is not None
        held += high.low <= truth <= high.high
    assert held >= 90


def test_a_constant_map_has_no_spectrum() -> None:
    """It is left out where others vary; alone it is refused, and so is a map of one token."""
    flat, wave = np.ones((1, 4, 4)), np.indices((4, 4)).sum(0)[None] % 2
    assert of(np.concatenate((flat, 1.0 * wave))).images == 1
    for maps in (flat, np.ones((2, 1, 1))):
        with pytest.raises(ValueError, match="constant"):
            of(maps)


def test_one_image_has_no_interval() -> None:
    """What was not observed is unknown."""
    share = of(np.random.default_rng(0).normal(size=(1, 5, 7))).high
    assert (share.low, share.high) == (None, None)


def test_json_keeps_all() -> None:
    """from_dict is the inverse of to_dict."""
    found = of(np.random.default_rng(0).normal(size=(3, 5, 7)))
    assert Spectrum.from_dict(found.to_dict()) == found
