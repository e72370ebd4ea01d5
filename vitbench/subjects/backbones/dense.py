"""Detection and segmentation on a backbone: a feature pyramid and the head on it.

RetinaNet (arXiv 1708.02002) and Mask R-CNN (arXiv 1703.06870) are torchvision's, with the settings
that the field reports them with: a pyramid of 256 channels, for RetinaNet over strides 8 to 128,
80 classes of objects. Semantic FPN is that of Panoptic FPN (arXiv 1901.02446, section 3.1), 128
channels and 150 classes. Weights are random, so how many candidates pass a threshold says nothing:
post-processing gets what it gets at most of a trained model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.ops import Conv2dNormActivation
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
    LastLevelP6P7,
)

from vitbench.subjects.backbones import STRIDES, Unsuitable

CHANNELS = 256
OBJECTS, SURFACES = 80, 150
# Objects in each image of a training step.
TARGETS = 8
PROPOSALS, DETECTIONS = 1000, 100


class Pyramid(nn.Module):
    """Images to the maps of the body, and through the feature pyramid (arXiv 1612.03144).

    first   the first of the body's four maps that is used
    shapes  (channels, height, width) of those maps, in the last call
    """

    def __init__(
        self, body: nn.Module, channels: Sequence[int], first: int, extra: ExtraFPNBlock | None
    ) -> None:
        super().__init__()
        self.body = body
        self.first = first
        self.fpn = FeaturePyramidNetwork(list(channels[first:]), CHANNELS, extra)
        self.out_channels = CHANNELS
        self.shapes: list[tuple[int, ...]] = []
        self.last_maps: list[Tensor] = []

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Name to map: the smallest last."""
        maps = _listed(self.body(images))[self.first :]
        self.shapes = [tuple(map_.shape[1:]) for map_ in maps]
        pyramid: dict[str, Tensor] = self.fpn({str(i): map_ for i, map_ in enumerate(maps)})
        self.last_maps = list(pyramid.values())
        # Boxes lie on a grid finer than halves can tell apart.
        return {name: _to_fp32(map_) for name, map_ in pyramid.items()}

    def take(self) -> list[Tensor]:
        """The maps of the last call, which are then let go."""
        maps, self.last_maps = self.last_maps, []
        return maps


def _listed(maps: Any) -> list[Tensor]:
    return list(maps.values()) if isinstance(maps, Mapping) else list(maps)


def _at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _to_fp32(x: Tensor) -> Tensor:
    return x.to(_at_least_fp32(x.dtype))


# What targets are drawn anew for: the number of images, where they are, and their dtype.
_Kind = tuple[int, torch.device, torch.dtype]


def _kind_of(images: Tensor) -> _Kind:
    return len(images), images.device, images.dtype


class CastedHead(nn.Module):
    """A head in the model's dtype between boxes in fp32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any) -> Any:
        dtype = next(self.module.parameters()).dtype
        casted = pytree.tree_map_only(Tensor, lambda tensor: tensor.to(dtype), inputs)
        return pytree.tree_map_only(Tensor, _to_fp32, self.module(*casted))


class CastedRetinaHead(CastedHead):
    """RetinaNet's head, whose losses its model asks for by name."""

    def compute_loss(self, *parts: Any) -> Any:
        """As the head has it."""
        head: Any = self.module
        return head.compute_loss(*parts)


class Detector(nn.Module):
    """Images to the maps of the feature pyramid; the head runs, to boxes in the end.

    The maps are what can be compared between implementations: boxes are chosen, and jump. In
    training `loss` is the sum of the head's losses on boxes drawn once.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: Sequence[int],
        head: str,
        image_height: int,
        image_width: int,
    ) -> None:
        super().__init__()
        self.image_height, self.image_width = image_height, image_width
        self.loss: Tensor | None = None
        same = {
            "min_size": min(image_height, image_width),
            "max_size": max(image_height, image_width),
            "image_mean": [0.0, 0.0, 0.0],
            "image_std": [1.0, 1.0, 1.0],
            "_skip_resize": True,
        }
        self._targets: dict[_Kind, list[dict[str, Tensor]]] = {}
        build_model = _retinanet if head == "retinanet" else _mask_rcnn
        self.model = build_model(body, channels, same)

    @property
    def pyramid(self) -> Pyramid:
        """Body and feature pyramid."""
        pyramid = self.model.backbone
        assert isinstance(pyramid, Pyramid)
        return pyramid

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        self.loss = None
        if self.training:
            kind = _kind_of(images)
            if kind not in self._targets:
                self._targets[kind] = self._draw_targets(images)
            losses = self.model(list(images), self._targets[kind])
            self.loss = torch.stack(list(losses.values())).sum()
        else:
            self.model(list(images))
        return self.pyramid.take()

    def _draw_targets(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Boxes of an eighth to a half of the image's sides, on the device of the images."""
        generator = torch.Generator().manual_seed(0)
        size = torch.tensor([self.image_width, self.image_height], dtype=torch.float64)
        targets = []
        for _ in range(images.shape[0]):
            drawn = torch.rand(TARGETS, 4, generator=generator, dtype=torch.float64)
            low = drawn[:, :2] * size / 2
            high = low + (0.125 + 0.375 * drawn[:, 2:]) * size
            boxes = torch.cat((low, high), dim=1).to(images.device, _at_least_fp32(images.dtype))
            labels = torch.randint(1, OBJECTS, (TARGETS,), generator=generator)
            masks = torch.zeros(TARGETS, self.image_height, self.image_width, dtype=torch.uint8)
            for mask, (left, top, right, bottom) in zip(masks, boxes.tolist(), strict=True):
                mask[int(top) : int(bottom), int(left) : int(right)] = 1
            labels, masks = labels.to(images.device), masks.to(images.device)
            targets.append({"boxes": boxes, "labels": labels, "masks": masks})
        return targets


def _retinanet(body: nn.Module, channels: Sequence[int], same: dict[str, Any]) -> RetinaNet:
    """torchvision's, on strides 8 to 128; the last two come from the body's last map."""
    last = LastLevelP6P7(channels[-1], CHANNELS)
    model = RetinaNet(
        Pyramid(body, channels, 1, last),
        num_classes=OBJECTS,
        score_thresh=0.0,
        topk_candidates=PROPOSALS,
        detections_per_img=DETECTIONS,
        **same,
    )
    model.head = CastedRetinaHead(model.head)
    return model


def _mask_rcnn(body: nn.Module, channels: Sequence[int], same: dict[str, Any]) -> MaskRCNN:
    """torchvision's, on strides 4 to 64."""
    model = MaskRCNN(
        Pyramid(body, channels, 0, LastLevelMaxPool()),
        num_classes=OBJECTS + 1,
        box_detections_per_img=DETECTIONS,
        rpn_pre_nms_top_n_test=PROPOSALS,
        rpn_post_nms_top_n_test=PROPOSALS,
        **same,
    )
    # One class for each box: with random weights none would pass, and no mask would be made.
    predictor = model.roi_heads.box_predictor
    with torch.no_grad():
        predictor.cls_score.bias[1] += 5.0
    model.rpn.head = CastedHead(model.rpn.head)
    for name in ("box_head", "box_predictor", "mask_head", "mask_predictor"):
        setattr(model.roi_heads, name, CastedHead(getattr(model.roi_heads, name)))
    return model


class ModelTail(nn.Module):
    """What lies above the body, on maps that it makes itself: one trace, without choices.

    Mask R-CNN's second stage gets as many boxes as it can get.
    """

    def __init__(self, whole: Detector | Segmenter, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.whole = whole
        self.shapes = shapes

    def forward(self, x: Tensor) -> Any:
        maps = {str(i): x.new_zeros(1, *shape) for i, shape in enumerate(self.shapes)}
        levels = list(self.whole.pyramid.fpn(maps).values())
        if isinstance(self.whole, Segmenter):
            return self.whole.head(levels)
        model = self.whole.model
        if isinstance(model, RetinaNet):
            return tuple(pytree.tree_leaves(model.head(levels)))
        heads = model.roi_heads
        boxes = heads.box_head(x.new_zeros(PROPOSALS, CHANNELS, 7, 7))
        masks = heads.mask_head(x.new_zeros(DETECTIONS, CHANNELS, 14, 14))
        ends = (model.rpn.head(levels), heads.box_predictor(boxes), heads.mask_predictor(masks))
        return tuple(pytree.tree_leaves(ends))


class SemanticHead(nn.Module):
    """Panoptic FPN's semantic branch: each map is brought to stride 4 in steps of two, 3 x 3
    convolution, BatchNorm, ReLU, doubling; they are added, and a 1 x 1 convolution gives classes.
    """

    WIDTH = 128

    def __init__(self) -> None:
        super().__init__()
        self.ways = nn.ModuleList(
            nn.ModuleList(
                Conv2dNormActivation(self.WIDTH if step else CHANNELS, self.WIDTH, inplace=False)
                for step in range(max(1, level))
            )
            for level in range(len(STRIDES))
        )
        self.classify = nn.Conv2d(self.WIDTH, SURFACES, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        total = None
        for level, (x, way) in enumerate(zip(maps, self.ways, strict=True)):
            assert isinstance(way, nn.ModuleList)
            for step, block in enumerate(way):
                x = block(x)
                if level:
                    # To the size of the next finer map: odd sizes are rounded down on the way here.
                    size = maps[level - step - 1].shape[2:]
                    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        return self.classify(total)


class Segmenter(nn.Module):
    """Images to classes of every pixel, (batch, 150, height, width). In training `loss` is the
    cross entropy against classes drawn once.
    """

    def __init__(
        self, body: nn.Module, channels: Sequence[int], image_height: int, image_width: int
    ) -> None:
        super().__init__()
        self.image_height, self.image_width = image_height, image_width
        self.loss: Tensor | None = None
        self._wanted: dict[_Kind, Tensor] = {}
        self.pyramid = Pyramid(body, channels, 0, None)
        self.head = SemanticHead()

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        self.loss = None
        self.pyramid(images)
        maps = self.pyramid.take()
        size = images.shape[2:]
        classes = F.interpolate(self.head(maps), size=size, mode="bilinear", align_corners=False)
        if self.training:
            kind = _kind_of(images)
            if kind not in self._wanted:
                self._wanted[kind] = self._draw_wanted(images)
            self.loss = F.cross_entropy(classes, self._wanted[kind])
        return classes

    def _draw_wanted(self, images: Tensor) -> Tensor:
        """A class for every pixel, on the device of the images."""
        generator = torch.Generator().manual_seed(0)
        shape = (len(images), *images.shape[2:])
        return torch.randint(SURFACES, shape, generator=generator).to(images.device)


def parts(
    whole: Detector | Segmenter, shapes: Sequence[tuple[int, ...]], image: tuple[int, int]
) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """The parts whose MACs are counted by themselves, and the shape of what goes into each: the
    body, on an image of this height and width; the head, on maps of these shapes."""
    return {"body": (whole.pyramid.body, (1, 3, *image)), "head": (ModelTail(whole, shapes), (1,))}


def padded(head: str, image_height: int, image_width: int) -> tuple[int, int]:
    """The image that the body gets: detectors pad to whole tokens of the last map."""
    if head == "semantic_fpn":
        return image_height, image_width
    stride = STRIDES[-1]
    return -(-image_height // stride) * stride, -(-image_width // stride) * stride


def build(body: nn.Module, head: str, image_height: int, image_width: int) -> Detector | Segmenter:
    """The model of a task on a body that was built for `padded` images. Raises Unsuitable where it
    gives no pyramid."""
    channels = _check(body, *padded(head, image_height, image_width))
    if head == "semantic_fpn":
        return Segmenter(body, channels, image_height, image_width)
    return Detector(body, channels, head, image_height, image_width)


def _check(body: nn.Module, image_height: int, image_width: int) -> list[int]:
    """Channels of the body's four maps. Raises Unsuitable."""
    if min(image_height, image_width) < STRIDES[-1]:
        raise Unsuitable(f"{image_height}x{image_width} has no map at stride {STRIDES[-1]}")
    known = getattr(body, "channels", None)
    if isinstance(known, Sequence) and len(known) == len(STRIDES):
        return [int(channels) for channels in known]
    was_training = body.training
    body.eval()
    with torch.no_grad():
        maps = body(torch.zeros(1, 3, image_height, image_width))
    body.train(was_training)
    shapes = [tuple(map_.shape) for map_ in _listed(maps) if isinstance(map_, Tensor)]
    # Sizes that do not divide are rounded, up or down as the backbone has it.
    wanted = [image_height / stride for stride in STRIDES]
    alike = len(shapes) == len(STRIDES) and all(
        len(shape) == 4 and abs(shape[2] - size) <= 1
        for shape, size in zip(shapes, wanted, strict=True)
    )
    if not alike:
        text = "; ".join(str(shape) for shape in shapes) or "no maps"
        raise Unsuitable(f"it must give four maps at strides 4, 8, 16 and 32, and gives {text}")
    return [shape[1] for shape in shapes]
