"""Case: what is measured, fully. Sweep: the axes it is drawn from. No torch."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import attentions
from vitbench import runtimes
from vitbench.cases import backbone_names as models
from vitbench.cases.scalars import Scalar, check, format_scalar
from vitbench.errors import BadInput, nearest

DTYPES = ("float32", "bfloat16", "float16", "float64")
DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}
MODES = ("forward", "forward_backward")
IMPLS = ("eager", "fused")
# Fields of a backbone that ids and the column `settings` have among the hyper-parameters.
_NAMED = ("head", "weights")
# Images that a task is measured on, unless others are named.
TASK_SIZES = {"classify": (224, 224), "detect": (800, 1280), "segment": (512, 512)}


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
        text = json.dumps(content, sort_keys=True)
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
    def settings(self) -> str:
        """Hyper-parameters, head and weights as a text: `alpha=0.9 window_size=2`."""
        pairs = sorted(self._settings.items())
        return " ".join(f"{name}={format_scalar(value)}" for name, value in pairs)

    @property
    def _settings(self) -> dict[str, Scalar]:
        named = {name: str(getattr(self, name)) for name in _NAMED}
        return dict(self.params) | {name: text for name, text in named.items() if text}

    def describe(self) -> str:
        """A line that names the case among its neighbours."""
        words = [self.subject, f"{self.resolution}px", self.dtype, f"batch {self.batch_size}"]
        if self.impl != "fused":
            words.append(self.impl)
        words += [self.runtime] if self.runtime != runtimes.DEFAULT else []
        words += ["cold"] if self.cold else []
        if self.mode != "forward":
            words.append(self.mode)
        return " ".join(words)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dataclasses.asdict(self) | {"params": dict(self.params)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Case:
        """The inverse of to_dict; reads what older releases wrote too."""
        fields = {**data, **split_settings(data["params"], data["backbone"])}
        fields |= {name: data[name] for name in _NAMED if name in data}
        if "runtime" not in fields:
            fields["runtime"] = runtimes.of_old_flags(
                fields.pop("compiled"), fields.pop("cuda_graph")
            )
        return cls(**fields)


def split_settings(settings: Mapping[str, Scalar], backbone: str) -> dict[str, Any]:
    """The fields of a case that the settings of its row hold; the inverse of Case.settings."""
    params = dict(settings)
    named = {name: str(params.pop(name, "")) for name in _NAMED} if backbone else {}
    return {"params": tuple(sorted(params.items())), **named}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """Axes; their product is the list of cases.

    backbone    `litv2_s`, `litv2_s[attention=sra]`, `timm:resnet50`, `module:factory`
    task        of the backbones; "detect" is both detectors
    resolution  empty: each task's own
    params      by mechanism or backbone, then by hyper-parameter: the values to sweep; what is not
                named here is the authors' setting at the stride
    plugins     mechanisms and backbones of the user's own: name -> file
    registry    the mechanisms that there are besides: name -> file
    weights     the checkpoint in every backbone, by the name of its file in the plan; "": none
    """

    attention: tuple[str, ...] = ()
    backbone: tuple[str, ...] = ()
    resolution: tuple[Resolution, ...] = (Resolution(224, 224),)
    stride: tuple[int, ...] = (16,)
    dim: tuple[int, ...] = (384,)
    num_heads: tuple[int, ...] = (12,)
    batch_size: tuple[int, ...] = (8,)
    dtype: tuple[str, ...] = ("float32",)
    impl: tuple[str, ...] = ("fused",)
    runtime: tuple[str, ...] = (runtimes.DEFAULT,)
    cold: tuple[bool, ...] = (False,)
    mode: tuple[str, ...] = ("forward",)
    task: tuple[str, ...] = ("classify",)
    device: str = "cpu"
    params: Mapping[str, Mapping[str, tuple[Scalar, ...]]] = field(default_factory=dict)
    plugins: Mapping[str, Path] = field(default_factory=dict)
    registry: Mapping[str, Path] = field(default_factory=attentions.files)
    weights: str = ""

    def check(self) -> None:
        """Raises BadInput, with one sentence, for the first thing that no device can have."""
        if not self.attention and not self.backbone:
            raise BadInput("the sweep names neither an attention nor a backbone")
        for axis in (*_POINT, "task"):
            if not getattr(self, axis) and not (axis == "resolution" and not self.attention):
                raise BadInput(f"{axis} needs at least one value")
        for name in self.attention:
            self._source(name)
        self._check_words()
        for text in self.backbone:
            models.check_name(models.parse(text)[0], self.plugins)
            list(self._models(text))
        self._check_sizes()
        for name, values in self.params.items():
            self._check_params(name, values)

    def on(self, device: str, axes: Mapping[str, Any]) -> Sweep:
        """The sweep on a device, with other values of some axes."""
        return dataclasses.replace(self, device=device, **axes)

    def _check_words(self) -> None:
        words = (
            ("dtype", DTYPES),
            ("impl", IMPLS),
            ("runtime", runtimes.names()),
            ("mode", MODES),
            ("task", models.TASKS),
        )
        for axis, known in words:
            for word in getattr(self, axis):
                if word not in known:
                    raise BadInput(f"no {axis} is called {word!r}; {nearest(word, known)}")

    def _check_sizes(self) -> None:
        for axis in ("stride", "dim", "num_heads", "batch_size"):
            for value in getattr(self, axis):
                if value < 1:
                    raise BadInput(f"{axis} must be at least 1, got {value}")
        for dim, heads in itertools.product(self.dim, self.num_heads):
            if dim % heads:
                raise BadInput(f"dim must be divisible by heads, got dim {dim} and {heads} heads")
        for resolution, stride in itertools.product(self.resolution, self.stride):
            if min(resolution.height, resolution.width) < stride:
                raise BadInput(
                    f"resolution {resolution} is below the stride {stride}: no token would be left"
                )

    def _check_params(self, name: str, values: Mapping[str, tuple[Scalar, ...]]) -> None:
        if name in {models.parse(text)[0] for text in self.backbone}:
            return  # they are checked together, since one decides which others there are
        source = self._source(name)
        if name not in self.attention:
            raise BadInput(
                f"a parameter of {name} is given, but {name} is not among the attentions"
            )
        keywords = attentions.outline(source).keywords
        for key, choices in values.items():
            if keywords is not None and key not in keywords:
                hint = nearest(key, keywords) if keywords else "it has none"
                raise BadInput(f"{name} has no parameter {key!r}; {hint}")
            for choice in choices:
                check(name, key, choice, None if keywords is None else keywords[key])

    @property
    def _mechanisms(self) -> dict[str, Path]:
        """All that can stand in a backbone."""
        return {**self.registry, **self.plugins}

    def _source(self, name: str) -> Path:
        if name in self.plugins:
            return self.plugins[name]
        if name in self.registry:
            return self.registry[name]
        known = (*self.registry, *(n for n in self.plugins if n not in self.backbone))
        raise BadInput(f"no attention mechanism is called {name!r}; {nearest(name, known)}")

    def expand(self) -> list[Case]:
        """The cases, in a stable order, each once. Raises BadInput as `check` does, and for what
        the device cannot do."""
        self.check()
        for name in self.runtime:
            reason = runtimes.load(name).refuses(self.device)
            if reason is not None:
                raise BadInput(reason)
        cases = [
            self._attention_case(name, params, point)
            for name in self.attention
            for point in self._points(_POINT)
            for params in self._params_at(name, point["stride"])
        ]
        cases += [
            self._backbone_case(name, head, params, point)
            for text in self.backbone
            for name, head, params in self._models(text)
            for point in self._points(_BACKBONE_POINT, head)
        ]
        return list(dict.fromkeys(cases))

    def _points(self, axes: tuple[str, ...], head: str = "") -> Iterator[dict[str, Any]]:
        own = (Resolution(*TASK_SIZES[models.task_of(head)]),)
        chosen = [getattr(self, axis) or own for axis in axes]  # only the resolution can be empty
        for values in itertools.product(*chosen):
            yield dict(zip(axes, values, strict=True))

    def _models(self, text: str) -> Iterator[tuple[str, str, dict[str, Scalar]]]:
        """Name, head and all hyper-parameters of what one word asks for."""
        name, written = models.parse(text)
        heads = models.heads_of(self.task)
        if "head" in written:
            heads = [models.check_head(str(written.pop("head")))]
        swept = self.params.get(name, {})
        for head in heads:
            for values in itertools.product(*swept.values()):
                own = dict(zip(swept, values, strict=True)) | written
                yield name, head, models.settings(name, own, self._mechanisms)

    def _params_at(self, name: str, stride: int) -> Iterator[dict[str, Scalar]]:
        outline = attentions.outline(self._source(name))
        known = {key: value for key, value in (outline.keywords or {}).items() if value is not None}
        settings = known | outline.settings_at(stride)
        swept = self.params.get(name, {})
        for values in itertools.product(*swept.values()):
            yield settings | dict(zip(swept, values, strict=True))

    def _attention_case(
        self, name: str, params: Mapping[str, Scalar], point: Mapping[str, Any]
    ) -> Case:
        size: Resolution = point["resolution"]
        impls = attentions.outline(self._source(name)).impls or IMPLS
        return Case(
            **{axis: point[axis] for axis in _POINT if axis not in ("resolution", "impl")},
            attention=name,
            backbone="",
            params=tuple(sorted(params.items())),
            impl=point["impl"] if point["impl"] in impls else impls[0],
            device=self.device,
            image_height=size.height,
            image_width=size.width,
            grid_height=size.height // point["stride"],
            grid_width=size.width // point["stride"],
        )

    def _backbone_case(
        self, name: str, head: str, params: Mapping[str, Scalar], point: Mapping[str, Any]
    ) -> Case:
        size: Resolution = point["resolution"]
        return Case(
            **{axis: point[axis] for axis in _BACKBONE_POINT if axis != "resolution"},
            attention="",
            backbone=name,
            head=head,
            weights=self.weights,
            params=tuple(sorted(params.items())),
            device=self.device,
            image_height=size.height,
            image_width=size.width,
            stride=0,
            grid_height=0,
            grid_width=0,
            dim=0,
            num_heads=0,
        )


_BACKBONE_POINT = (
    "resolution",
    "batch_size",
    "dtype",
    "impl",
    "runtime",
    "cold",
    "mode",
)
_POINT = (*_BACKBONE_POINT[:1], "stride", "dim", "num_heads", *_BACKBONE_POINT[1:])
AXES = ("attention", "backbone", *_POINT, "task")
