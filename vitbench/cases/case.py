"""Case: what is measured, in full. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import attentions
from vitbench import runtimes
from vitbench.cases.scalars import Scalar, format_scalar
from vitbench.errors import BadInput

# Fields of a backbone that ids and the column `settings` have among the hyper-parameters.
_NAMED = ("head", "weights")


@dataclass(frozen=True, slots=True)
class Resolution:
    """An image's size in pixels."""

    height: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Resolution:
        """`224` or `800x1280` (height x width). Raises BadInput."""
        match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
        if not match or not int(match[1]) or not int(match[2] or 1):
            raise BadInput(
                f"a resolution is pixels like 224 or 800x1280 (height x width), got {text!r}"
            )
        return cls(int(match[1]), int(match[2] or match[1]))

    def __str__(self) -> str:
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One thing to measure. Two equal cases are the same measurement.

    attention      mechanism, or "" for a backbone; then stride, grid, dim and num_heads are 0
    backbone       whole model, or "" for an attention layer
    params         hyper-parameters by name, sorted; the defaults too, so that nothing is implied
    head           of a backbone: "retinanet", "mask_rcnn", "semantic_fpn", or "" for its own
    weights        of a backbone: the name of a checkpoint, by its content, or "" for random ones
    impl           "eager" or "fused"
    runtime        how it is run, the name of a runtime: "eager"
    cold           the caches are flushed before each call
    mode           "forward" or "forward_backward" (one training step of the layer)
    device         "cpu", "cuda" or "cuda:1"
    image_height   pixels; the grid is the image divided by the stride, rounded down, in tokens
    more           values of the axes that are no field here, where they are not the default
    """

    attention: str
    backbone: str
    params: tuple[tuple[str, Scalar], ...]
    impl: str
    runtime: str
    cold: bool
    mode: str
    device: str
    dtype: str
    batch_size: int
    image_height: int
    image_width: int
    stride: int
    grid_height: int
    grid_width: int
    dim: int
    num_heads: int
    head: str = ""
    weights: str = ""
    more: tuple[tuple[str, Scalar], ...] = ()

    @property
    def id(self) -> str:
        """A hash of the content, 12 hexadecimal digits. No release may change it: journals and
        baselines find their cases by it.
        """
        content = self.to_dict() | {"params": self._settings}
        del content["head"], content["weights"]
        if self.runtime in runtimes.OLD_FLAGS:
            del content["runtime"]
            content |= dict(
                zip(("compiled", "cuda_graph"), runtimes.OLD_FLAGS[self.runtime], strict=True)
            )
        text = _as_json(content)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def subject(self) -> str:
        """The mechanism's or the backbone's name."""
        return self.attention or self.backbone

    @property
    def grid(self) -> attentions.Grid:
        return attentions.Grid(self.grid_height, self.grid_width)

    @property
    def resolution(self) -> Resolution:
        return Resolution(self.image_height, self.image_width)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of a layer (batch, height, width, dim), as is its output; of a backbone (batch, 3,
        height, width)."""
        if self.backbone:
            return self.batch_size, 3, self.image_height, self.image_width
        return self.batch_size, self.grid_height, self.grid_width, self.dim

    @property
    def settings(self) -> str:
        """Hyper-parameters, head and weights as a text: `alpha=0.9 window_size=2`."""
        pairs = sorted(self._settings.items())
        return " ".join(f"{name}={format_scalar(value)}" for name, value in pairs)

    @property
    def tensor_dtype(self) -> str:
        """In which weights and inputs are: int8 says only how products are computed."""
        return "float32" if self.dtype == runtimes.INT8 else self.dtype

    @property
    def _settings(self) -> dict[str, Scalar]:
        named = {name: str(getattr(self, name)) for name in _NAMED}
        return dict(self.params) | {name: text for name, text in named.items() if text}

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        content: dict[str, Any] = dict(zip(_FIELDS, _fields_of(self), strict=True))
        content["params"] = dict(self.params)
        del content["more"]
        return content | ({"more": dict(self.more)} if self.more else {})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Case:
        """The inverse of to_dict; reads what older releases wrote too."""
        fields = {**data, **split_settings(data["params"], data["backbone"])}
        fields |= {name: data[name] for name in _NAMED if name in data}
        fields["more"] = tuple(data.get("more", {}).items())
        if "runtime" not in fields:
            fields["runtime"] = runtimes.of_old_flags(
                fields.pop("compiled"), fields.pop("cuda_graph")
            )
        return cls(**fields)


# Of every row that is read the id is computed: these are made once.
_FIELDS = tuple(field.name for field in dataclasses.fields(Case))
_fields_of = operator.attrgetter(*_FIELDS)
_as_json = json.JSONEncoder(sort_keys=True).encode


def split_settings(settings: Mapping[str, Scalar], backbone: str) -> dict[str, Any]:
    """The fields of a case that the settings of its row hold; the inverse of Case.settings."""
    params = dict(settings)
    named = {name: str(params.pop(name, "")) for name in _NAMED} if backbone else {}
    return {"params": tuple(sorted(params.items())), **named}
