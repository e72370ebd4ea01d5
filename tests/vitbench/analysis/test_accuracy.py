"""Published top-1 beside rows of ours: only of the same model, and said where it differs."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from vitbench.analysis import accuracy, published
from vitbench.analysis.accuracy import published_top1
from vitbench.cases import backbone_names
from vitbench.cases.backbone_names import NAMES
from vitbench.subjects.backbones import AS_PUBLISHED, LITV2, RIVALS

FIGURES = published.read("top1")
HILO = "alpha=0.9 attention=hilo qkv_bias=true window_size=2"


def row(backbone: str, size: int = 224, settings: str = "", **changes: Any) -> dict[str, Any]:
    """A row of a whole model."""
    base = {"attention": "", "backbone": backbone, "settings": settings, "dtype": "float32"}
    return base | {"image_height": size, "image_width": size} | changes


def test_the_table() -> None:
    """Shares of 100, one for each model, setting and resolution, with source and resolution; the
    checkpoint of timm's is of the model."""
    twice = Counter((figure.key, figure.settings) for figure in FIGURES)
    assert max(twice.values()) == 1
    timms = dict(RIVALS) | {figure.key: figure.key for figure in FIGURES if figure.key not in NAMES}
    for figure in FIGURES:
        assert figure.quantity == "top1"
        assert figure.unit == "%"
        assert 60 < figure.value < 90
        assert 160 <= accuracy._side(figure) <= 512
        if "timm" in figure.source or "pytorch-image-models" in figure.source:
            assert figure.name.partition(".")[0] == timms[figure.key]


def test_every_name_exists() -> None:
    """In vitbench or timm, and every backbone that vitbench names has a figure."""
    found = importlib.util.find_spec("timm")
    assert found is not None
    known = backbone_names.timm_names(Path(str(found.origin)).parent)
    assert {figure.key for figure in FIGURES} - {*NAMES} <= known
    assert {*NAMES} <= {figure.key for figure in FIGURES}


def test_it_agrees_with_the_other_tables() -> None:
    """Where the same model's accuracy is printed twice, both are within half a per cent."""
    tables = [*published.read("backbones"), *published.read("alpha")]
    printed = [figure for figure in tables if figure.quantity == "top1"]
    compared = 0
    for figure in printed:
        words = [word for word in figure.settings.split() if not word.startswith("image_size=")]
        settings = " ".join([*words, "qkv_bias=true"]) if words else ""
        ours = published_top1(row(figure.key, settings=settings))
        if ours is not None:
            assert ours.percent == pytest.approx(float(figure.value), abs=0.5)
            compared += 1
    assert compared > 12


def test_a_model_has_its_figure() -> None:
    """With checkpoint, resolution and source, and nothing to say where all is the same."""
    top1 = published_top1(row("litv2_s", settings=HILO))
    assert top1 == accuracy.PublishedTop1(
        82.0, "LITv2-S", 224, "https://arxiv.org/abs/2205.13213", ""
    )
    named = published_top1(row("swin_tiny"))
    assert named == published_top1(row("timm:swin_tiny_patch4_window7_224"))
    assert named == published_top1(row("timm:swin_tiny_patch4_window7_224.ms_in1k"))
    assert named is not None
    assert named.checkpoint == "swin_tiny_patch4_window7_224.ms_in1k"


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "msa", "backbone": ""},
        {"backbone": "litv2_s", "settings": HILO.replace("hilo", "msa")},
        {"backbone": "litv2_s", "settings": HILO.replace("window_size=2", "window_size=4")},
        {"backbone": "litv2_s", "settings": f"{HILO} head=retinanet"},
        {"backbone": "litv2_s", "settings": f"{HILO} weights=mine-0123456789ab"},
        {"settings": "drop_rate=0.1"},
        {"backbone": "timm:resnet50.tv2_in1k"},
        {"backbone": "deit_small_patch16_224"},  # a plugin of that name
        {"backbone": "timm:coatnet_0_224"},  # which is not the paper's
        {"backbone": "module:factory"},
    ],
)
def test_another_model_has_none(changes: dict[str, Any]) -> None:
    """A layer; another mechanism, setting, head or checkpoint; weights of the user's own."""
    assert published_top1(row("resnet50") | changes) is None
    assert "coatnet_0" in AS_PUBLISHED


@pytest.mark.parametrize(
    ("size", "percent", "remark"),
    [
        (224, 80.382, ""),
        (288, 81.240, ""),
        (320, 81.240, "published at 288 px, measured here at 320 px"),
        (96, 80.382, "published at 224 px, measured here at 96 px"),
    ],
)
def test_another_resolution_is_said(size: int, percent: float, remark: str) -> None:
    """The nearest one is given, and the sentence with it."""
    top1 = published_top1(row("resnet50", size))
    assert top1 is not None
    assert (top1.percent, top1.remark) == (percent, remark)


def test_what_is_no_square_is_said() -> None:
    """224 x 320 pixels is no published resolution."""
    top1 = published_top1(row("resnet50", image_width=320))
    assert top1 is not None
    assert top1.remark == "published at 288 px, measured here at 224x320 px"


def test_more_than_the_images_is_said() -> None:
    """A distilled model, or one that saw more images, does not compare without that."""
    top1 = published_top1(row("cait_xs24", 384))
    assert top1 is not None
    assert top1.remark == "distilled from a larger model"
    assert all(published_top1(row(name, settings=HILO)) for name in LITV2)


def test_int8_is_said() -> None:
    """Quantized weights are not those whose accuracy was published."""
    top1 = published_top1(row("resnet50", dtype="int8"))
    assert top1 is not None
    assert top1.remark == "published in floating point, measured here in int8"
