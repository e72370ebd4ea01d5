"""timm's models as backbones: any name that `timm.list_models()` knows."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
from timm.layers.config import set_fused_attn
from torch import Tensor, nn

from vitbench.subjects.backbones import STRIDES, BackboneSpec, Unsuitable


def spec(name: str, **params: Any) -> BackboneSpec:
    """The spec of timm's model `name`, built with `params` unless a case says otherwise: `fused`
    attends through scaled_dot_product_attention, `eager` by equations, as timm has both.
    """
    return BackboneSpec(build=partial(_build, name, **params), impls=("eager", "fused"))


def _build(
    name: str,
    image_height: int,
    image_width: int,
    *,
    impl: str = "fused",
    features_only: bool = False,
    **params: Any,
) -> nn.Module:
    """The model, its weights random. Raises Unsuitable."""
    set_fused_attn(impl == "fused")
    try:
        if features_only:
            return Pyramid(name, image_height, image_width, params)
        return _create(name, image_height, image_width, params)
    finally:
        set_fused_attn(True)


def _create(name: str, image_height: int, image_width: int, params: dict[str, Any]) -> nn.Module:
    """For the size where the model is built for one: timm's models say so by taking `img_size`."""
    sized: dict[str, Any] = {"img_size": (image_height, image_width), **params}
    try:
        model: nn.Module = timm.create_model(name, **sized)
    except TypeError:
        model = timm.create_model(name, **params)
    # A model whose parts lie on a fixed grid asserts, each in its own words.
    except (AssertionError, ValueError, RuntimeError) as error:
        raise Unsuitable(
            f"timm's {name} is not for {image_height}x{image_width}: {error}"
        ) from error
    return model


class Pyramid(nn.Module):
    """Images to the maps at strides 4, 8, 16 and 32, channels first. Raises Unsuitable.

    channels  of the four maps
    """

    def __init__(
        self, name: str, image_height: int, image_width: int, params: dict[str, Any]
    ) -> None:
        super().__init__()
        extra = {"features_only": True, **params}
        try:
            whole = _create(name, image_height, image_width, extra)
        except (RuntimeError, AttributeError) as error:
            raise Unsuitable(f"timm's {name} gives no maps: {error}") from error
        about: Any = whole.feature_info
        strides = list(about.reduction())
        if not set(STRIDES) <= set(strides):
            text = ", ".join(map(str, strides))
            raise Unsuitable(f"timm's {name} gives maps at strides {text}, not 4, 8, 16 and 32")
        last = {stride: index for index, stride in enumerate(strides)}
        self._chosen = [last[stride] for stride in STRIDES]
        self.channels = [about.channels()[index] for index in self._chosen]
        self.body = whole

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.body(images)
        chosen = [maps[index] for index in self._chosen]
        # Some of timm's models are channels-last inside, and give their maps so.
        return [
            map_ if map_.shape[1] == channels else map_.permute(0, 3, 1, 2)
            for map_, channels in zip(chosen, self.channels, strict=True)
        ]
