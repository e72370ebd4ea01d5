"""Detection and segmentation on a backbone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitbench.analysis import published
from vitbench.instruments import _macs
from vitbench.subjects.backbones import STRIDES, Unsuitable, dense
from vitbench.subjects.backbones.dense import Detector, Segmenter
from vitbench.subjects.backbones.litv2 import CONFIGS, LITv2, configured, grids_on

HEADS = ("retinanet", "mask_rcnn", "semantic_fpn")


class Body(nn.Module):
    """Four maps from one convolution each."""

    def __init__(self, strides: tuple[int, ...] = STRIDES, width: int = 8) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, width, s, stride=s) for s in strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [conv(images) for conv in self.convs]


def built(head: str, height: int = 64, width: int = 96) -> Detector | Segmenter:
    """A head on the body."""
    torch.manual_seed(0)
    return dense.build(Body(), head, height, width)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("size", "dtype"),
    [
        ((64, 96), torch.float32),
        ((70, 101), torch.float32),
        pytest.param((70, 101), torch.bfloat16, marks=pytest.mark.slow),  # emulated on many CPUs
        pytest.param((64, 96), torch.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_it_runs_and_its_output_is_of_the_body(
    head: str, size: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes that do not divide, and halves; another image gives another output."""
    if dtype == torch.bfloat16:  # a CPU that emulates it takes minutes for all
        monkeypatch.setattr(dense, "PROPOSALS", 20)
        monkeypatch.setattr(dense, "DETECTIONS", 4)
    model = built(head, *size).eval().to(dtype)
    images = torch.randn(2, 3, *size, dtype=dtype)
    with torch.no_grad():
        first, second = model(images), model(images.flip(0))
    maps = [first] if isinstance(first, Tensor) else first
    others = [second] if isinstance(second, Tensor) else second
    for one, other in zip(maps, others, strict=True):
        assert one.dtype == dtype
        torch.testing.assert_close(one.flip(0), other, rtol=0.02, atol=0.02)
        assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("head", HEADS)
def test_a_training_step_reaches_every_parameter(head: str) -> None:
    """Through the head's own losses; nothing of a call is kept after it."""
    model = built(head, 96, 96).train()
    model(torch.randn(2, 3, 96, 96))
    assert model.loss is not None
    model.loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    # RetinaNet begins at stride 8.
    unused = {"model.backbone.body.convs.0.weight", "model.backbone.body.convs.0.bias"}
    assert without == (unused if head == "retinanet" else set())
    assert model.pyramid.last_maps == []


@pytest.mark.parametrize("head", HEADS)
def test_targets_are_drawn_once(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in each training step, where their drawing and their way to the device would be timed;
    anew for another batch, whose first images have the same."""
    draws: list[torch.Generator] = []
    make = torch.Generator

    def generator() -> torch.Generator:
        draws.append(make())
        return draws[-1]

    monkeypatch.setattr(torch, "Generator", generator)
    model = built(head, 96, 96).train()
    losses = []
    for batch in (2, 2, 1, 2):
        torch.manual_seed(1)
        model(torch.ones(batch, 3, 96, 96))
        losses.append(model.loss)
    assert len(draws) == 2
    assert losses[0] == losses[1] == losses[3]


def test_mask_rcnn_makes_masks() -> None:
    """Of as many boxes as it may keep, whatever the weights are."""
    model = built("mask_rcnn", 256, 256).eval()
    assert isinstance(model, Detector)
    with torch.no_grad():
        (found,) = model.model([torch.randn(3, 256, 256)])
    assert len(found["masks"]) == dense.DETECTIONS
    assert found["masks"].shape[2:] == (256, 256)


def counted(head: str, height: int, width: int) -> dict[str, int]:
    """MACs of the parts."""
    model = built(head, height, width).eval()
    with torch.no_grad():
        model(torch.randn(1, 3, height, width))
    image = dense.padded(head, height, width)
    parts = dense.parts(model, model.pyramid.shapes, image)
    return {name: _macs.count(*part).total for name, part in parts.items()}


def test_macs_of_retinanet() -> None:
    """By hand: four 3 x 3 convolutions twice and the two last ones on five maps; the pyramid."""
    height, width = 64, 96
    tokens = [(height // s) * (width // s) for s in (8, 16, 32)]
    ends = [1 * 2, 1 * 1]  # 2 x 3 halved, rounded up, and again
    c = dense.CHANNELS
    pyramid = sum(t * (8 * c + 9 * c * c) for t in tokens) + 9 * c * (8 * ends[0] + c * ends[1])
    pyramid += c * sum(tokens[:2])  # a map is doubled, at one for each element
    head = sum([*tokens, *ends]) * 9 * c * (8 * c + 9 * dense.OBJECTS + 9 * 4)
    found = counted("retinanet", height, width)
    assert found["head"] == pyramid + head
    assert found["body"] == sum((height // s) * (width // s) * 3 * s * s * 8 for s in STRIDES)


def test_macs_of_mask_rcnn_have_its_second_stage_at_its_most() -> None:
    """1000 boxes of 7 x 7, 100 masks of 14 x 14, whatever the image."""
    c, classes = dense.CHANNELS, dense.OBJECTS + 1
    boxes = 1000 * (49 * c * 1024 + 1024 * 1024 + 1024 * classes * 5)
    masks = 100 * 196 * (4 * 9 * c * c + 4 * c * c + 4 * c * classes)
    small, large = counted("mask_rcnn", 64, 64), counted("mask_rcnn", 64, 128)
    on_maps = large["head"] - small["head"]
    assert small["head"] == boxes + masks + on_maps


def test_images_are_padded_for_detectors() -> None:
    """To whole tokens of the last map."""
    assert dense.padded("retinanet", 333, 500) == (352, 512)
    assert dense.padded("semantic_fpn", 333, 500) == (333, 500)


@pytest.mark.parametrize(
    ("strides", "height", "words"),
    [
        ((16, 16, 16, 16), 64, "four maps at strides 4, 8, 16 and 32"),
        ((4, 8, 16), 64, "four maps"),
        (STRIDES, 16, "no map at stride 32"),
    ],
)
def test_a_body_without_a_pyramid(strides: tuple[int, ...], height: int, words: str) -> None:
    """Says what is needed and what there is, for too small an image too."""
    with pytest.raises(Unsuitable, match=words):
        dense.build(Body(strides), "semantic_fpn", height, 64)


def test_maps_may_come_in_a_dict() -> None:
    """As torchvision's bodies give them. Segmentation gives every pixel its classes."""

    class Named(Body):
        def forward(self, images: Tensor) -> Any:
            return {str(i): one for i, one in enumerate(super().forward(images))}

    model = dense.build(Named(), "semantic_fpn", 65, 99).eval()
    assert model(torch.randn(1, 3, 65, 99)).shape == (1, dense.SURFACES, 65, 99)


PUBLISHED = [
    figure
    for suite in ("detection", "segmentation")
    for figure in published.read(suite)
    if figure.quantity == "macs" and "deformable convolutions" in figure.note
]


@pytest.mark.parametrize(
    "figure",
    [
        pytest.param(
            figure,
            id=f"{figure.name} {figure.value}",
            marks=[] if index % 7 == 0 else pytest.mark.slow,
        )
        for index, figure in enumerate(PUBLISHED)
    ],
)
def test_published_macs_are_ours_without_deformable_convolutions(figure: published.Figure) -> None:
    """As the notes beside them say, to the digits printed: at stride 8, 16 and 32 four taps of each
    channel, to twice as many, and their sampling."""
    settings = dict(word.split("=") for word in figure.settings.split())
    height, _, width = settings["image_size"].partition("x")
    size = int(height), int(width or height)
    config = CONFIGS[figure.key]
    params = {"window_size": int(settings["window_size"])}
    with torch.device("meta"):
        body = LITv2(configured(config, params, {}), *size, features_only=True, impl="eager")
        model = dense.build(body, settings["head"], *size)
    grids = grids_on(*size)
    channels = [config.dim << stage for stage in range(len(grids))]
    shapes = [(dim, grid.height, grid.width) for dim, grid in zip(channels, grids, strict=True)]
    parts = dense.parts(model, shapes[model.pyramid.first :], size)
    total = sum(_macs.count(*part).total for part in parts.values())
    merging = sum(
        grid.tokens * 4 * dim * (2 * dim + 4)
        for grid, dim in zip(grids[1:], channels[:-1], strict=True)
    )
    assert figure.printed(total - merging) == str(figure.value)
    assert f" {merging / 1e9:.2f} GMACs" in figure.note


def test_fourteen_published_macs_have_that_note() -> None:
    """All of LITv2's but one, which nothing explains."""
    assert len(PUBLISHED) == 14
