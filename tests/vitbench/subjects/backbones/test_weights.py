"""Checkpoints: tensors only; everything else is one sentence."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from yacs.config import CfgNode

from vitbench.subjects.backbones.litv2 import LITv2, LITv2Config
from vitbench.subjects.backbones.weights import BadWeights, load_into, read

TINY = LITv2Config(dim=24, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), drop_path=0.0)


def model(**changes: Any) -> LITv2:
    """A small LITv2."""
    return LITv2(TINY, 32, 32, num_classes=5, **changes)


def complaint(module: nn.Module, path: Path) -> str:
    """The sentence that a checkpoint is refused with."""
    with pytest.raises(BadWeights) as caught:
        load_into(module, path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    return sentence


@pytest.mark.parametrize("nested", ["", "model", "state_dict"])
def test_weights_go_in(tmp_path: Path, nested: str) -> None:
    """By themselves, or where training code keeps them."""
    source, target = model(), model()
    kept = {nested: source.state_dict(), "epoch": 3} if nested else source.state_dict()
    torch.save(kept, tmp_path / "w.pth")
    load_into(target, tmp_path / "w.pth")
    pairs = zip(source.parameters(), target.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_settings_beside_the_weights_are_data(tmp_path: Path) -> None:
    """As the authors save them: a configuration of yacs, the options of the command line."""
    config = CfgNode({"MODEL": CfgNode({"NAME": "litv2"}), "SIZES": [224, 384]})
    options = argparse.Namespace(batch_size=64, resume="")
    source = model()
    kept = {"model": source.state_dict(), "config": config, "args": options}
    torch.save(kept, tmp_path / "w.pth")
    assert read(tmp_path / "w.pth").keys() == source.state_dict().keys()


def test_a_classifiers_weights_make_a_pyramid(tmp_path: Path) -> None:
    """Its head stays out; the norms of the maps are fresh."""
    source, target = model(), model(features_only=True)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    load_into(target, tmp_path / "w.pth")
    assert torch.equal(target.patch_embed.proj.weight, source.patch_embed.proj.weight)
    assert target.state_dict()["norm0.weight"].tolist() == [1.0] * 24


def test_what_is_pickled_is_not_run(tmp_path: Path) -> None:
    """A checkpoint that would run a command when it is loaded is refused, and nothing runs."""
    mark = tmp_path / "ran"

    class Malice:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {mark}",)

    path = tmp_path / "w.pth"
    torch.save({"model": model().state_dict(), "extra": Malice()}, path)
    sentence = complaint(model(), path)
    assert "pickle more than tensors" in sentence
    assert "state_dict" in sentence
    assert not mark.exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    """One that torch did not write, too."""
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"model": Path("x")}))
    assert "state_dict" in complaint(model(), path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_cut_off(tmp_path: Path, share: float) -> None:
    """Is told to be fetched again."""
    path = tmp_path / "w.pth"
    torch.save(model().state_dict(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "again" in complaint(model(), path)


def test_another_size(tmp_path: Path) -> None:
    """Says which tensor, and both shapes."""
    wider = LITv2(LITv2Config(**{**_fields(), "dim": 48}), 32, 32, num_classes=5)
    torch.save(wider.state_dict(), tmp_path / "w.pth")
    sentence = complaint(model(), tmp_path / "w.pth")
    assert "another size: patch_embed.proj.weight is 48x3x4x4, here 24x3x4x4" in sentence


def _fields() -> dict[str, Any]:
    return {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}


def test_another_model(tmp_path: Path) -> None:
    """Says how many names do not meet, and one of them."""
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "w.pth")
    sentence = complaint(model(), tmp_path / "w.pth")
    assert "another model" in sentence
    assert "missing" in sentence
    assert "2 are not known here (bias, ...)" in sentence


@pytest.mark.parametrize("kept", [{"epoch": 3}, [1, 2], {"model": {"epoch": 3}}])
def test_no_weights_in_it(tmp_path: Path, kept: object) -> None:
    """A file of something else."""
    torch.save(kept, tmp_path / "w.pth")
    assert "hold no state_dict" in complaint(model(), tmp_path / "w.pth")


def test_no_file(tmp_path: Path) -> None:
    """Says why it cannot be read."""
    assert "No such file" in complaint(model(), tmp_path / "w.pth")
