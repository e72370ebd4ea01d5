"""Checkpoints: tensors only; everything else is one sentence."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from yacs.config import CfgNode

from vitbench.subjects.backbones.litv2 import LITv2, LITv2Config
from vitbench.subjects.backbones.weights import BadWeights, load_into

TINY = LITv2Config(dim=24, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), drop_path=0.0)


def model(**changes: Any) -> LITv2:
    """A small LITv2."""
    return LITv2(TINY, 32, 32, num_classes=5, **changes)


def saved(folder: Path, content: object) -> Path:
    """A checkpoint."""
    torch.save(content, folder / "w.pth")
    return folder / "w.pth"


def complaint(path: Path) -> str:
    """The sentence that a checkpoint is refused with."""
    with pytest.raises(BadWeights) as caught:
        load_into(model(), path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence
    return sentence


# As the authors save them: a configuration of yacs, the options of the command line.
BESIDE = {
    "config": CfgNode({"MODEL": CfgNode({"NAME": "litv2"}), "SIZES": [224, 384]}),
    "args": argparse.Namespace(batch_size=64, resume=""),
    "epoch": 3,
}


@pytest.mark.parametrize("nested", ["", "model", "state_dict"])
def test_weights_go_in(tmp_path: Path, nested: str) -> None:
    """By themselves, or where training code keeps them, beside settings, which are data."""
    source, target = model(), model()
    content = {nested: source.state_dict()} | BESIDE if nested else source.state_dict()
    load_into(target, saved(tmp_path, content))
    pairs = zip(source.parameters(), target.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    """A model's weights as wrappers name them."""
    return {f"{prefix}{key}": value for key, value in model().state_dict().items()}


STEP = torch.tensor(3)


@pytest.mark.parametrize(
    ("content", "done"),
    [
        (prefixed(""), ""),
        (prefixed("module."), "without the prefix 'module.'"),
        (prefixed("_orig_mod."), "without '_orig_mod.'"),
        (prefixed("module._orig_mod."), "without the prefix 'module.', without '_orig_mod.'"),
        (prefixed("model.module."), "without the prefix 'model.module.'"),
        (prefixed("module.") | {"n_averaged": STEP}, "without the prefix 'module.'"),
        ({"model_ema": prefixed(""), "step": STEP}, "taken from 'model_ema'"),
        ({"model": {"NAME": "x"}, "state_dict": prefixed("")}, "taken from 'state_dict'"),
        ({"model": prefixed(""), "model_ema": prefixed("")}, "taken from 'model'"),
        (
            {"teacher": {"state_dict": prefixed("module.")}, "epoch": 3},
            "taken from 'teacher.state_dict', without the prefix 'module.'",
        ),
    ],
)
def test_names_as_wrappers_write_them(tmp_path: Path, content: object, done: str) -> None:
    """Prefixes that all names share are stripped, nested weights are found; what was done is
    said."""
    target = model()
    assert load_into(target, saved(tmp_path, content)) == done


def test_which_of_several_models(tmp_path: Path) -> None:
    """Is not guessed: a teacher and a student are two models."""
    content = {"student": prefixed(""), "teacher": prefixed("")}
    assert "hold several models, teacher and student: save" in complaint(saved(tmp_path, content))


def test_a_classifiers_weights_make_a_pyramid(tmp_path: Path) -> None:
    """Its head stays out; the norms of the maps are fresh."""
    source, target = model(), model(features_only=True)
    load_into(target, saved(tmp_path, source.state_dict()))
    assert torch.equal(target.patch_embed.proj.weight, source.patch_embed.proj.weight)
    assert target.state_dict()["norm0.weight"].tolist() == [1.0] * 24


def whole(body: LITv2) -> dict[str, torch.Tensor]:
    """A detector as MMDetection saves it: the body's names behind `backbone.`, beside others."""
    weights = {f"backbone.{key}": value for key, value in body.state_dict().items()}
    return weights | {"neck.fpn_convs.0.conv.weight": STEP, "bbox_head.fc_cls.bias": STEP}


def test_a_detectors_weights_go_into_its_body(tmp_path: Path) -> None:
    """Of a whole detector all of the body is taken, the norms of its maps too, and no more."""
    source = model(features_only=True, first_norm=1)
    torch.nn.init.normal_(source.get_parameter("norm1.weight"))
    target = model(features_only=True, first_norm=1)
    done = load_into(target, saved(tmp_path, {"meta": {"epoch": 12}, "state_dict": whole(source)}))
    assert done == (
        "taken from 'state_dict', without the prefix 'backbone.', "
        "2 tensors above the backbone are left out"
    )
    pairs = zip(source.parameters(), target.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("source", "target", "fault"),
    [
        (0, 1, r"2 are not known here \(norm0\.bias, \.\.\.\)"),
        (1, 0, r"2 are missing \(norm0\.bias, \.\.\.\)"),
    ],
)
def test_pyramids_of_two_tasks_differ(tmp_path: Path, source: int, target: int, fault: str) -> None:
    """A segmenter's body has a norm that a detector's has not, and neither loads into the other."""
    path = saved(tmp_path, whole(model(features_only=True, first_norm=source)))
    with pytest.raises(BadWeights, match=fault):
        load_into(model(features_only=True, first_norm=target), path)


def test_what_is_pickled_is_not_run(tmp_path: Path) -> None:
    """A checkpoint that would run a command when it is loaded is refused, and nothing runs."""
    mark = tmp_path / "ran"

    class Malice:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {mark}",)

    sentence = complaint(saved(tmp_path, {"model": model().state_dict(), "extra": Malice()}))
    assert "pickle more than tensors" in sentence
    assert "state_dict" in sentence
    assert not mark.exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    """One that torch did not write, too."""
    path = tmp_path / "w.pth"
    path.write_bytes(pickle.dumps({"model": Path("x")}))
    assert "state_dict" in complaint(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_cut_off(tmp_path: Path, share: float) -> None:
    """Is told to be fetched again."""
    path = saved(tmp_path, model().state_dict())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "again" in complaint(path)


@pytest.mark.parametrize(
    ("content", "faults"),
    [
        (
            LITv2(dataclasses.replace(TINY, dim=48), 32, 32, num_classes=5).state_dict(),
            ["another size: patch_embed.proj.weight is 48x3x4x4, here 24x3x4x4"],
        ),
        (
            nn.Linear(2, 2).state_dict(),
            ["another model", "missing", "2 are not known here (bias, ...)"],
        ),
        ({"epoch": 3}, ["hold no state_dict"]),
        ([1, 2], ["hold no state_dict"]),
        ({"model": {"epoch": 3}}, ["hold no state_dict"]),
    ],
)
def test_weights_of_something_else(tmp_path: Path, content: object, faults: list[str]) -> None:
    """Another size: which tensor, and both shapes. Another model: how many names do not meet, and
    one of them."""
    sentence = complaint(saved(tmp_path, content))
    assert all(fault in sentence for fault in faults), sentence


def test_no_file(tmp_path: Path) -> None:
    """Says why it cannot be read."""
    assert "No such file" in complaint(tmp_path / "w.pth")
