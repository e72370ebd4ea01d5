"""The user's own files: imported once, found by what they import, and named in their errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attentions
from vitbench.cases.case import Case
from vitbench.subjects import backbones

if TYPE_CHECKING:
    from torch import Tensor

Plugins = Mapping[str, Path]


# `vitbench ab` measures trees whose attentions are older than these two functions.
_importable = getattr(attentions, "importable", lambda _: contextlib.nullcontext())
_place_of = getattr(attentions, "place_of", lambda *_: "")


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
            backbones.attention_of(name, plugins)


def importable_beside(name: str, plugins: Plugins) -> contextlib.AbstractContextManager[None]:
    """While this lasts, the plugin of that name, where it is one, finds what lies beside it."""
    return _importable(plugins[name]) if name in plugins else contextlib.nullcontext()


def files_of(case: Case, plugins: Plugins) -> list[Path]:
    """The plugins that a case runs, also those inside a backbone."""
    mechanisms = str(dict(case.params).get("attention", "")) if case.backbone else case.attention
    names = (case.backbone, *mechanisms.split("+"))
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
            kind = _IMAGES if case.backbone else _MAP
            error.add_note(f"vitbench calls forward(x) with x of shape {tuple(x.shape)}, {kind}")
        places = dict.fromkeys(_place_of(error, path) for path in files)
        for place in filter(None, places):
            error.add_note(f"raised at {place}")
        raise


_MAP = "a channels-last map (batch, height, width, dim)"
_IMAGES = "images (batch, 3, height, width)"
