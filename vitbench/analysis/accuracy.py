"""Published top-1 accuracy of whole models, for rows of ours. Pure, no torch.

vitbench trains nothing: every figure is somebody else's, of their weights, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from vitbench.analysis import published
from vitbench.analysis.published import Figure
from vitbench.cases.backbone_names import NAMES
from vitbench.cases.case import Resolution
from vitbench.subjects.backbones import AS_PUBLISHED, RIVALS

_TABLE = "top1"
# timm's models that have a name of ours and are the same model.
_NAMES = {
    f"timm:{timm_name}": name for name, timm_name in RIVALS.items() if name not in AS_PUBLISHED
}


@dataclass(frozen=True, slots=True)
class PublishedTop1:
    """The accuracy on ImageNet-1k's validation set that somebody published for a model.

    percent     as printed
    checkpoint  whose accuracy it is
    resolution  at which it was measured: the image's side in pixels
    source      where it was published
    remark      what must be said with the figure, in words: another resolution than the row's, more
                training data; "" for nothing
    """

    percent: float
    checkpoint: str
    resolution: int
    source: str
    remark: str


def published_top1(record: Mapping[str, Any]) -> PublishedTop1 | None:
    """The published accuracy of a row's model; None where there is none.

    A single layer has none, nor has a model with another mechanism or head than the published one,
    or with weights of the user's own. The figure of the nearest resolution is given where that of
    the row was not published; its remark says so.
    """
    known = _known().get(_model(record), ())
    size = Resolution(int(record["image_height"]), int(record["image_width"]))
    side = (size.height * size.width) ** 0.5
    ranked = sorted(known, key=lambda figure: abs(_side(figure) - side))
    if not ranked:
        return None
    figure = ranked[0]
    published_at, remarks = _side(figure), [figure.note] if figure.note else []
    if record["dtype"] == "int8":
        remarks.append("published in floating point, measured here in int8")
    if size != Resolution(published_at, published_at):
        remarks.insert(0, f"published at {published_at} px, measured here at {size} px")
    return PublishedTop1(
        float(figure.value), figure.name, published_at, figure.source, "; ".join(remarks)
    )


# A model's name and its settings; a name of timm's may name the checkpoint too.
_Model = tuple[str, frozenset[str]]


def _model(record: Mapping[str, Any]) -> _Model:
    name = str(record["backbone"] or "")
    return _NAMES.get(name, name), frozenset(str(record["settings"] or "").split())


@cache
def _known() -> Mapping[_Model, tuple[Figure, ...]]:
    """The figures of each model, and of each checkpoint under its own name."""
    figures: dict[_Model, tuple[Figure, ...]] = {}
    for figure in published.read(_TABLE):
        settings = frozenset(_words(figure))
        # A name that is timm's alone is one of a user's own without the prefix.
        name = figure.key if figure.key in NAMES else f"timm:{figure.key}"
        for one in (name, f"timm:{figure.name}"):
            figures[one, settings] = (*figures.get((one, settings), ()), figure)
    return figures


def _words(figure: Figure) -> list[str]:
    return [word for word in figure.settings.split() if not word.startswith("image_size=")]


def _side(figure: Figure) -> int:
    (text,) = (word for word in figure.settings.split() if word.startswith("image_size="))
    return int(text.removeprefix("image_size="))
