"""What is asked of a backbone, read without torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import timm

from tests.vitbench.examples import plugin
from vitbench.cases import backbone_names as models
from vitbench.cases.axes import split
from vitbench.cases.case import Resolution
from vitbench.cases.sweep import Sweep
from vitbench.errors import BadInput
from vitbench.subjects.backbones import RIVALS


def expand(*texts: str, **changes: Any) -> list[dict[str, Any]]:
    """The hyper-parameters of each case of some backbones."""
    sweep = Sweep(backbone=texts, **changes)
    return [dict(case.params) | {"name": case.backbone} for case in sweep.expand()]


def complaint(*texts: str, **changes: Any) -> str:
    """The sentence that they are refused with."""
    with pytest.raises(BadInput) as caught:
        expand(*texts, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_comma_inside_brackets_is_no_separator() -> None:
    """Names and their hyper-parameters in one list, in which no item is empty."""
    assert split("a,b[c=1,d=2], e") == ["a", "b[c=1,d=2]", "e"]
    assert models.parse("b[c=1,d=x]") == ("b", {"c": 1, "d": "x"})
    assert models.parse("timm:resnet50") == ("timm:resnet50", {})
    for text in ("a,,b", "", "a[b=1],"):
        with pytest.raises(BadInput, match="commas between"):
            split(text)


@pytest.mark.parametrize("text", ["a[b", "a[b]", "a[=1]", "a[b=]", "a[b=1,b=2]", "a[b=1]c"])
def test_brackets_that_do_not_close(text: str) -> None:
    """Are refused with the name."""
    with pytest.raises(BadInput, match="a"):
        models.parse(text)


def test_nothing_is_implied(tmp_path: Path) -> None:
    """The defaults stand in the case: the authors' at stride 16, a plugin's own."""
    (own,) = expand("litv2_s")
    assert own.items() >= {"attention": "hilo", "alpha": 0.9, "window_size": 2}.items()
    (swapped,) = expand("litv2_s[attention=sra]")
    assert swapped["sr_ratio"] == 2
    assert "alpha" not in swapped
    plugins = {"mine": plugin(tmp_path, "mine")}
    (mine,) = expand("litv2_s[attention=mine,strength=2.0]", plugins=plugins)
    assert mine.items() >= {"attention": "mine", "strength": 2.0}.items()


def test_values_can_be_swept() -> None:
    """By --param, as for a mechanism."""
    found = expand("litv2_s", params={"litv2_s": {"alpha": (0, 0.5), "window_size": (2, 4)}})
    pairs = [(params["alpha"], params["window_size"]) for params in found]
    assert pairs == [(0, 2), (0, 4), (0.5, 2), (0.5, 4)]


def test_a_task_has_its_heads_and_images() -> None:
    """Both detectors at 800 x 1280, unless a head or a size is named."""
    sweep = Sweep(backbone=("litv2_s",), task=("classify", "detect", "segment"), resolution=())
    assert [(case.head, str(case.resolution)) for case in sweep.expand()] == [
        ("", "224"),
        ("retinanet", "800x1280"),
        ("mask_rcnn", "800x1280"),
        ("semantic_fpn", "512"),
    ]
    (one,) = Sweep(
        backbone=("resnet50[head=mask_rcnn]",), resolution=(Resolution(64, 96),)
    ).expand()
    assert (one.head, one.resolution) == ("mask_rcnn", Resolution(64, 96))
    assert "'detection'; nearest: detect" in complaint("litv2_s", task=("detection",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("litv9", ["'litv9'", "litv2_s", "timm:NAME"]),
        ("timm:resnet5", ["'resnet5'", "resnet50"]),
        ("nowhere_at_all:make", ["'nowhere_at_all'"]),
        ("litv2_s[attention=hilow]", ["'hilow'", "hilo"]),
        ("litv2_s[attention=sra+hilow]", ["'hilow'"]),
        ("litv2_s[alpa=0.5]", ["'alpa'", "alpha"]),
        ("litv2_s[attention=sra,alpha=0.5]", ["litv2_s with sra", "'alpha'"]),
        ("litv2_s[alpha=high]", ["litv2_s.alpha", "number"]),
        ("litv2_s[window_size=2.5]", ["litv2_s.window_size", "whole number"]),
        ("litv2_s[head=yolo]", ["'yolo'", "retinanet"]),
    ],
)
def test_bad_input(text: str, words: list[str]) -> None:
    """One sentence with what was written and what there is."""
    sentence = complaint(text)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize("name", ["resnet50", "timm:vit_small_patch16_224", "litv2_s"])
def test_what_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says what to install."""
    there = importlib.util.find_spec

    def without(module: str, package: str | None = None) -> object:
        return None if module in ("timm", "torchvision") else there(module, package)

    monkeypatch.setattr(importlib.util, "find_spec", without)
    assert "pip install 'vitbench[backbones]'" in complaint(name)


def test_timms_names_are_read_from_its_files() -> None:
    """All that it lists, without importing it; the rivals are among them."""
    found = models.timm_names(Path(timm.__file__).parent)
    assert set(timm.list_models()) <= found
    assert set(RIVALS.values()) <= set(timm.list_models())
