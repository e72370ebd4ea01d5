"""Sweep: axes, whose product is a list of cases. No torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import attentions
from vitbench import runtimes
from vitbench.cases import backbone_names as models
from vitbench.cases import class_names
from vitbench.cases.axes import ALL, AXES, Value, find
from vitbench.cases.case import Case, Resolution
from vitbench.cases.scalars import Scalar, check, merged
from vitbench.errors import BadInput, nearest
from vitbench.subjects.plugins import only_defines

# Size of the images of a task whose sweep names none.
_TASK_SIZES = {"classify": (224, 224), "detect": (800, 1280), "segment": (512, 512)}
# The axes that name what is measured.
_SUBJECTS = ("attention", "backbone", "task")
# The axes that a mechanism's settings may set for it alone.
_SIZES = ("dim", "num_heads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A mechanism at one size, of which all that can be said is asked, without measuring it."""

    name: str
    resolution: Resolution
    stride: int
    dim: int
    num_heads: int
    params: Mapping[str, Scalar]

    def check(self, plugins: Mapping[str, Path]) -> None:
        """Raises BadInput for what is wrong in it. Does not import torch."""
        name, _ = class_names.parse(self.name)
        Sweep(
            attention=(self.name,),
            resolution=(self.resolution,),
            stride=(self.stride,),
            dim=(self.dim,),
            num_heads=(self.num_heads,),
            params={name: {key: (value,) for key, value in self.params.items()}},
            plugins=plugins,
        ).check()


class Sweep:
    """Axes; their product is a list of cases.

    axes        tuples of values by the names of `cases.axes`: attention=("msa",), dim=(96, 192);
                an axis that is not named has its default. No resolution: each task's own
    device      "cpu", "cuda" or "cuda:1"
    params      values to sweep, by mechanism or backbone, then by hyper-parameter; the others are
                the authors' settings at the stride
    plugins     the user's own mechanisms and backbones: name -> file
    registry    the other mechanisms: name -> file
    weights     the checkpoint of every backbone, by the name of its file in the plan; "": none
    elsewhere   other Pythons measure: which packages this one has is of no interest

    Raises BadInput for an axis that does not exist; `check` and `expand` for the rest.
    """

    def __init__(
        self,
        *,
        device: str = "cpu",
        params: Mapping[str, Mapping[str, tuple[Scalar, ...]]] | None = None,
        plugins: Mapping[str, Path] | None = None,
        registry: Mapping[str, Path] | None = None,
        weights: str = "",
        elsewhere: bool = False,
        **axes: Value | Iterable[Value],
    ) -> None:
        named = {name: find(name).values(values) for name, values in axes.items()}
        self.axes: dict[str, tuple[Any, ...]] = {
            name: named.get(name, axis.defaults) for name, axis in AXES.items()
        }
        self.device, self.weights, self._elsewhere = device, weights, elsewhere
        self.params, self.plugins = params or {}, plugins or {}
        self._registry = attentions.files() if registry is None else registry

    def __getitem__(self, axis: str) -> tuple[Any, ...]:
        return self.axes[axis]

    def check(self) -> None:
        """Raises BadInput, with one sentence, for the first thing that no device can have."""
        if not self["attention"] and not self["backbone"]:
            raise BadInput("the sweep names neither an attention nor a backbone")
        for name, axis in AXES.items():
            may_be_empty = axis.default is None or (name == "resolution" and not self["attention"])
            if not self[name] and not may_be_empty:
                raise BadInput(f"{name} needs at least one value")
            axis.check(self[name])
        for text in self["attention"]:
            self._check_attention(text)
        for text in self["backbone"]:
            models.check_name(models.parse(text)[0], self.plugins)
            list(self._backbones(text))
        self._check_sizes()
        for name, values in self.params.items():
            self._check_params(name, values)

    def expand(self) -> list[Case]:
        """The cases, in a stable order, each once. Raises BadInput as `check` does, and for what
        the device cannot do."""
        self.check()
        for name in self["runtime"]:
            if name != ALL and (reason := self._mistake(name)) is not None:
                raise BadInput(reason)
        cases = [
            self._case(point, attention=name, params=params)
            for name, written in map(class_names.parse, self["attention"])
            for point in self._points("layer")
            for params in self._params_at(name, point["stride"], written)
        ]
        cases += [
            self._case(point, backbone=name, params=params, head=head, weights=self.weights)
            for text in self["backbone"]
            for name, head, params in self._backbones(text)
            for point in self._points("backbone", head)
        ]
        return list(dict.fromkeys(cases))

    def left_out(self) -> list[str]:
        """The runtimes that `all` leaves out, each with its reason, in words."""
        if ALL not in self["runtime"]:
            return []
        sentences = []
        for name in runtimes.names():
            reasons = {how: self._reason_against(name, *how) for how in self._hows()}
            if None not in reasons.values():
                sentences.append(f"{name} is left out: {next(iter(reasons.values()))}")
                continue
            of_dtypes = {dtype: reason for (dtype, _), reason in reasons.items() if reason}
            sentences += [f"{name} is left out in {d}: {why}" for d, why in of_dtypes.items()]
        return sentences

    def _runtimes(self) -> tuple[str, ...]:
        """Those named; for `all` each that there is."""
        named = [runtimes.names() if name == ALL else (name,) for name in self["runtime"]]
        return tuple(dict.fromkeys(name for group in named for name in group))

    def _left_out(self) -> set[tuple[str, str, str]]:
        """Runtime, dtype and mode of the cases that `all` leaves out."""
        others = [name for name in self._runtimes() if name not in self["runtime"]]
        runs = itertools.product(others, self["dtype"], self["mode"])
        return {run for run in runs if self._reason_against(*run) is not None}

    def _hows(self) -> Iterator[tuple[str, str]]:
        """Each dtype in each mode."""
        return itertools.product(self["dtype"], self["mode"])

    def _reason_against(self, runtime: str, dtype: str, mode: str) -> str | None:
        """Why a runtime cannot measure such a case here; None where it can."""
        refusal = runtimes.refusal(runtime, self.device, dtype, mode)
        return refusal or self._missing(runtime, dtype)

    def _missing(self, runtime: str, dtype: str) -> str | None:
        """What to install for a runtime, where this Python is the one that measures."""
        return None if self._elsewhere else runtimes.missing(runtime, dtype)

    def _mistake(self, runtime: str) -> str | None:
        """Why a runtime should not have been named: it can measure none of the cases, or needs a
        package for some."""
        refusals = {how: runtimes.refusal(runtime, self.device, *how) for how in self._hows()}
        able = [dtype for (dtype, _), refusal in refusals.items() if refusal is None]
        if not able:
            return next(iter(refusals.values()))
        return next(filter(None, (self._missing(runtime, dtype) for dtype in able)), None)

    def _check_sizes(self) -> None:
        for dim, heads in itertools.product(self["dim"], self["num_heads"]):
            if dim % heads:
                raise BadInput(f"dim must be divisible by heads, got dim {dim} and {heads} heads")
        for resolution, stride in itertools.product(self["resolution"], self["stride"]):
            if min(resolution.height, resolution.width) < stride:
                raise BadInput(
                    f"resolution {resolution} is below the stride {stride}: no token would be left"
                )

    def _check_params(self, name: str, values: Mapping[str, tuple[Scalar, ...]]) -> None:
        if name in {models.parse(text)[0] for text in self["backbone"]}:
            return  # they are checked together: one decides which others exist
        outline = self._outline(name)
        if name not in map(class_names.name_in, self["attention"]):
            raise BadInput(
                f"a parameter of {name} is given, but {name} is not among the attentions"
            )
        self._check_values(name, outline.keywords, values)

    def _check_values(
        self,
        name: str,
        keywords: Mapping[str, Any] | None,
        values: Mapping[str, tuple[Scalar, ...]],
    ) -> None:
        for key, choices in values.items():
            if key in _SIZES:
                AXES[key].check(AXES[key].values(cast("tuple[Value, ...]", choices)))
                continue
            if keywords is not None and key not in keywords:
                hint = nearest(key, (*keywords, *_SIZES)) if keywords else "it has none"
                raise BadInput(f"{name} has no parameter {key!r}; {hint}")
            default = None if keywords is None else keywords[key]
            for choice in choices:
                if not (class_names.is_class(name) and choice in class_names.WORDS):
                    check(name, key, choice, default)

    def _check_attention(self, text: str) -> None:
        """Raises BadInput for what is wrong in `hilo[alpha=0.5]`."""
        name, written = class_names.parse(text)
        values = {key: (value,) for key, value in written.items()}
        self._check_values(name, self._outline(name).keywords, values)

    def _outline(self, name: str) -> attentions.Outline:
        """What a mechanism's file, or a class, says. Raises BadInput."""
        if class_names.is_class(name):
            return class_names.outline_of(name, {}, elsewhere=self._elsewhere)
        return attentions.outline(self._source(name))

    def _source(self, name: str) -> Path:
        """The file of a mechanism. Raises BadInput."""
        files = {**self._registry, **self.plugins}
        if name not in files:
            known = [known for known in files if known not in self["backbone"]]
            raise BadInput(f"no attention mechanism is called {name!r}; {nearest(name, known)}")
        if name in self.plugins and only_defines(files[name], "BACKBONE"):
            raise BadInput(f"{name} is a backbone, by its file: name it with --backbone")
        return files[name]

    def _points(self, kind: str, head: str = "") -> Iterator[dict[str, Any]]:
        """One value of each axis that a layer or a backbone has."""
        swept = {
            name: self[name]
            for name, axis in AXES.items()
            if axis.of in (kind, "both") and name not in _SUBJECTS
        }
        swept["resolution"] = swept["resolution"] or (
            Resolution(*_TASK_SIZES[models.task_of(head)]),
        )
        swept["runtime"] = self._runtimes()
        left_out = self._left_out()
        for values in itertools.product(*swept.values()):
            point = dict(zip(swept, values, strict=True))
            if (point["runtime"], point["dtype"], point["mode"]) not in left_out:
                yield point

    def _backbones(self, text: str) -> Iterator[tuple[str, str, dict[str, Scalar]]]:
        """Name, head and all hyper-parameters of the models that one word means."""
        name, written = models.parse(text)
        heads = models.heads_of(self["task"])
        if "head" in written:
            heads = [models.check_head(str(written.pop("head")))]
        swept = self.params.get(name, {})
        for head in heads:
            for values in itertools.product(*swept.values()):
                own = dict(zip(swept, values, strict=True)) | written
                yield name, head, models.settings(name, own, {**self._registry, **self.plugins})

    def _params_at(
        self, name: str, stride: int, written: Mapping[str, Scalar]
    ) -> Iterator[dict[str, Scalar]]:
        outline = self._outline(name)
        known, given = outline.keywords or {}, outline.settings_at(stride)
        for key, value in given.items():
            check(name, key, value, None)
        # What a case cannot say, such as a tuple, stays the module's own default.
        settings = {key: value for key, value in known.items() if isinstance(value, Scalar)} | given
        swept = self.params.get(name, {})
        for values in itertools.product(*swept.values()):
            yield merged(settings, dict(zip(swept, values, strict=True)), written)

    def _case(
        self,
        point: Mapping[str, Any],
        params: Mapping[str, Scalar],
        *,
        attention: str = "",
        **subject: str,
    ) -> Case:
        values, params = dict(point), dict(params)
        size, stride = values.pop("resolution"), values.get("stride", 0)
        if attention:
            values |= {key: params.pop(key) for key in _SIZES if key in params}
            impls = self._outline(attention).impls
            if impls and values["impl"] not in impls:
                values["impl"] = impls[0]
        own: dict[str, Any] = {"stride": 0, "dim": 0, "num_heads": 0, "backbone": "", **subject}
        more = []
        for name, value in values.items():
            if name in Case.__dataclass_fields__:
                own[name] = value
            elif value != AXES[name].default:
                more.append((name, value))
        return Case(
            **own,
            attention=attention,
            params=tuple(sorted(params.items())),
            device=self.device,
            image_height=size.height,
            image_width=size.width,
            grid_height=size.height // stride if stride else 0,
            grid_width=size.width // stride if stride else 0,
            more=tuple(more),
        )
