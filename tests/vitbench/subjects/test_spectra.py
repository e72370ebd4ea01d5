"""Which maps spectra are read of."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vitbench.analysis import spectrum
from vitbench.analysis.spectrum import Spectrum
from vitbench.instruments import spectrum as transforms
from vitbench.instruments.spectrum import Layer
from vitbench.subjects.spectra import as_map


def _same(output: Tensor) -> Tensor:
    return output


def _read(layer: Layer, x: Tensor) -> list[Spectrum]:
    return [
        spectrum.of_maps(one.layer, one.group, one.magnitude, one.power, one.channels)
        for one in transforms.read(layer.module, [layer], [x])
    ]


def test_a_grating_through_identity_is_at_its_frequency() -> None:
    """3 periods in 14 tokens: 3/7 of Nyquist's frequency, in every channel."""
    wave = torch.sin(2 * torch.pi * 3 * torch.arange(14) / 14)
    (found,) = _read(Layer("", nn.Identity(), _same), wave.view(1, 1, 14, 1).expand(1, 14, 14, 5))
    shares = [share.mean for share in found.energy]
    assert shares.index(max(shares)) == 3
    assert max(shares) == pytest.approx(1)
    assert found.frequency[3] == pytest.approx(3 / 7)
    assert found.channels == 5


def test_groups_are_told_apart() -> None:
    """The channels of each group, in their order."""
    alternating = (torch.arange(8) % 2 * 2.0 - 1).view(1, 1, 8, 1).expand(1, 8, 8, 2)
    slow = torch.cos(2 * torch.pi * torch.arange(8) / 8).view(1, 1, 8, 1).expand(1, 8, 8, 3)
    layer = Layer("attn", nn.Identity(), _same, {"high": 2, "low": 3})
    high, low = _read(layer, torch.cat((alternating, slow), -1))
    assert (high.group, high.channels, low.group, low.channels) == ("high", 2, "low", 3)
    assert high.high.mean == pytest.approx(1)
    assert low.high.mean == pytest.approx(0, abs=1e-9)


def test_a_layer_that_does_not_run_is_refused() -> None:
    """Its spectrum is unknown, and no empty one is given."""
    idle = Layer("idle", nn.Identity(), _same)
    with pytest.raises(ValueError, match="did not run: idle"):
        transforms.read(nn.Identity(), [idle], [torch.randn(1, 4, 4, 2)])


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 5), st.sampled_from([4, 14, 16]))
def test_tokens_become_a_map(height: int, width: int, extra: int, stride: int) -> None:
    """Whatever stands before them, if their number allows only one map of the image's shape."""
    maps = torch.arange(height * width).view(1, height, width, 1).float()
    tokens = torch.cat((-torch.ones(1, extra, 1), maps.flatten(1, 2)), dim=1)
    found = as_map(tokens, height * stride, width * stride)
    if found.shape == maps.shape:
        assert torch.equal(found, maps)
    else:  # so many tokens make a larger map of the same shape
        assert found.shape[1] * found.shape[2] > height * width


def test_a_map_is_read_in_its_layout() -> None:
    """Channels last or first, by the image's sides."""
    last = torch.randn(2, 7, 11, 96)
    assert as_map(last, 224, 352) is last
    first = as_map(last.permute(0, 3, 1, 2), 224, 352)
    assert torch.equal(first, last)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (torch.randn(2, 1000), "one map or one sequence"),
        ((torch.randn(1, 4, 4, 2), torch.randn(1, 4, 4, 2)), "one map or one sequence"),
        (torch.randn(1, 50, 8), "50 tokens make no map"),
    ],
)
def test_what_is_no_map_is_refused(output: object, reason: str) -> None:
    """In a sentence with its shape."""
    with pytest.raises(ValueError, match=reason):
        as_map(output, 224, 336)
