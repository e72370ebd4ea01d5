"""timm's models as backbones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from attentions import BrokenAttention
from vitbench.instruments import _macs, macs
from vitbench.subjects import backbones
from vitbench.subjects.backbones import RIVALS, Unsuitable

# Published GMACs at 224 x 224: those of LITv2's table that timm has.
GIGA = {
    "resnet50": 4.1,
    "convnext_tiny": 4.5,
    "swin_tiny": 4.5,
    "pvt_v2_b2": 4.0,
    "twins_pcpvt_small": 3.8,
    "xcit_small_12_p16": 4.8,
    "coatnet_0": 4.2,
    "tnt_s": 5.2,
    "cait_xs24": 5.4,
}


@pytest.mark.parametrize(("name", "giga"), GIGA.items())
def test_macs_are_the_published(name: str, giga: float) -> None:
    """Within 2%, attention counted though timm has it fused."""
    eager = backbones.load(name, {}).make(224, 224, impl="eager")
    counted = _macs.count(eager, (1, 3, 224, 224)).total / 1e9
    assert counted == pytest.approx(giga, rel=0.02)


def test_coatnet_is_the_papers() -> None:
    """timm's own has more MACs, all in the first blocks of its convolution stages: they expand
    before they halve the map. Parameters are the same, so its checkpoints load."""
    papers, timms = (
        backbones.load(name, {}).make(224, 224, impl="eager")
        for name in ("coatnet_0", "timm:coatnet_0_224")
    )
    assert {k: v.shape for k, v in papers.state_dict().items()} == {
        k: v.shape for k, v in timms.state_dict().items()
    }
    # An expansion (1 x 1) and its normalisation, two for each element, on four times the tokens.
    more = sum(
        3 * (224 // stride) ** 2 * (dim_in + 2) * 4 * dim
        for stride, dim_in, dim in ((4, 64, 96), (8, 96, 192))
    )
    counts = [_macs.count(model, (1, 3, 224, 224)).total for model in (timms, papers)]
    assert counts[0] - counts[1] == more


def test_fused_and_eager_are_one_model() -> None:
    """timm's two ways to attend, from the same weights."""
    spec = backbones.load("timm:vit_tiny_patch16_224", {})
    eager, fused = (spec.make(64, 96, impl=impl).eval() for impl in ("eager", "fused"))
    fused.load_state_dict(eager.state_dict())
    assert {m.fused_attn for m in eager.modules() if hasattr(m, "fused_attn")} == {False}
    assert {m.fused_attn for m in fused.modules() if hasattr(m, "fused_attn")} == {True}
    x = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(eager(x), fused(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet50", "swin_tiny", "pvt_v2_b2", "convnext_tiny"])
@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_a_pyramid(name: str, size: tuple[int, int]) -> None:
    """Four maps, channels first."""
    model = backbones.load(name, {}).make(*size, impl="fused", features_only=True).eval()
    with torch.no_grad():
        maps = model(torch.randn(1, 3, *size))
    assert [tuple(one.shape[2:]) for one in maps] == [
        (size[0] // stride, size[1] // stride) for stride in backbones.STRIDES
    ]
    assert [one.shape[1] for one in maps] == model.channels


@pytest.mark.parametrize("name", ["vit_small", "xcit_small_12_p16"])
def test_without_a_pyramid(name: str) -> None:
    """Says what maps there are."""
    with pytest.raises(Unsuitable, match="16"):
        backbones.load(name, {}).make(224, 224, impl="fused", features_only=True)


@pytest.mark.parametrize("name", RIVALS)
def test_every_rival_is_built(name: str) -> None:
    """On the meta device: for 224 x 224."""
    with torch.device("meta"):
        model = backbones.load(name, {}).make(224, 224, impl="fused")
    assert macs.params(model) > 1e6


def test_a_factory_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """module:factory, in the current folder; it takes what it names."""
    code = "from torch import nn\ndef make(width=4):\n    return nn.Conv2d(3, width, 4)\n"
    (tmp_path / "my_own_models.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", __import__("sys").path.copy())
    model = backbones.load("my_own_models:make", {}).make(32, 32, impl="eager", width=8)
    assert model(torch.randn(1, 3, 8, 8)).shape == (1, 8, 5, 5)
    with pytest.raises(Unsuitable, match="features_only"):
        backbones.load("my_own_models:make", {}).make(32, 32, impl="eager", features_only=True)
    with pytest.raises(BrokenAttention, match="no factory 'other'"):
        backbones.load("my_own_models:other", {})
