"""The user's own files: imported once, found by what they import, and named in their errors."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attentions
from vitbench.cases import class_names
from vitbench.cases.case import Case
from vitbench.subjects import backbones, classes

if TYPE_CHECKING:
    from torch import Tensor

Plugins = Mapping[str, Path]


# `vitbench ab` measures trees whose attentions are older than these.
_importable = getattr(attentions, "importable", lambda _: contextlib.nullcontext())
_place_of = getattr(attentions, "place_of", lambda *_: "")
_LAYOUTS: Mapping[str, str] = getattr(attentions, "LAYOUTS", {})


def is_backbone(path: Path) -> bool:
    """Whether a plugin defines a BACKBONE; else it is taken for a mechanism."""
    return "BACKBONE" in attentions.outline(path).defines


def only_defines(path: Path, name: Literal["ATTENTION", "BACKBONE"]) -> bool:
    """Whether of an ATTENTION and a BACKBONE a plugin defines this alone, by its text."""
    return attentions.outline(path).defines & {"ATTENTION", "BACKBONE"} == {name}


def load(name: str, plugins: Plugins, *, as_backbone: bool) -> None:
    """Imports a plugin. Raises attentions.BrokenAttention."""
    with importable_beside(name, plugins):
        if as_backbone:
            backbones.load(name, plugins)
        else:
            classes.attention_of(name, plugins)


def importable_beside(name: str, plugins: Plugins) -> contextlib.AbstractContextManager[None]:
    """While this lasts, the plugin of that name, where it is one, finds what lies beside it."""
    return _importable(plugins[name]) if name in plugins else contextlib.nullcontext()


def files_of(case: Case, plugins: Plugins) -> list[Path]:
    """The plugins that a case runs, also those inside a backbone."""
    names = (case.backbone, *class_names.mechanisms_of(case))
    return [plugins[name] for name in names if name in plugins]


@contextlib.contextmanager
def importable(case: Case, plugins: Plugins) -> Iterator[None]:
    """While this lasts, the case's plugins can import what lies beside them, in forward too."""
    with contextlib.ExitStack() as stack:
        for path in files_of(case, plugins):
            stack.enter_context(_importable(path))
        yield


@contextlib.contextmanager
def noted(case: Case, plugins: Plugins, x: Tensor | None = None) -> Iterator[None]:
    """Notes where a plugin raised what it raises, and the input that it was called with."""
    try:
        yield
    except (Exception, SystemExit) as error:
        files = files_of(case, plugins)
        if files and x is not None:
            error.add_note(_called_with(case, plugins, x))
            if hint := layout_hint(case, plugins):
                error.add_note(hint)
        places = dict.fromkeys(_place_of(error, path) for path in files)
        for place in filter(None, places):
            error.add_note(f"raised at {place}")
        raise


def _called_with(case: Case, plugins: Plugins, x: Tensor) -> str:
    if case.backbone:
        kind = "images (batch, 3, height, width)"
    else:
        layout = getattr(classes.attention_of(case.attention, plugins), "layout", "bhwc")
        kind = _LAYOUTS.get(layout, "a map (batch, height, width, dim)")
        if layout != "bhwc":
            return f"vitbench calls forward with a map of shape {tuple(x.shape)} as {kind}"
    return f"vitbench calls forward(x) with x of shape {tuple(x.shape)}, {kind}"


def layout_hint(case: Case, plugins: Plugins) -> str:
    """The layout in which a layer runs, where that is not its spec's, by trying; "" where there is
    none."""
    if case.backbone or class_names.is_class(case.attention) or not _LAYOUTS:
        return ""
    spec = classes.attention_of(case.attention, plugins)
    sizes, params = (case.dim, case.num_heads, case.grid), dict[str, Any](case.params)
    build = dataclasses.replace(spec, layout="bhwc").build
    try:
        faults = attentions.fitting(
            functools.partial(build, *sizes, impl=case.impl, **params), case.dim, case.grid
        )
    except (Exception, SystemExit):  # it may not be built a second time
        return ""
    fits = [layout for layout, fault in faults.items() if not fault and layout != spec.layout]
    return f"it runs as AttentionSpec(layout={fits[0]!r}), {_LAYOUTS[fits[0]]}" if fits else ""
