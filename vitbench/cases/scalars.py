"""Hyper-parameters and shares as text and as values. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from vitbench.errors import BadInput

Scalar = bool | int | float | str


def format_scalar(value: Scalar) -> str:
    """A hyper-parameter as one writes it on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_scalar(text: str) -> Scalar:
    """`2`, `0.9`, `true` or a word."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def merged(defaults: Mapping[str, Scalar], *given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The defaults, replaced by what is given; of a key given twice the last value counts.
    `alpha=1` is the same setting as `alpha=1.0`."""
    found = dict(defaults)
    for key, value in ((key, value) for own in given for key, value in own.items()):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        found[key] = float(value) if is_whole and isinstance(defaults.get(key), float) else value
    return found


def check(owner: str, key: str, value: Scalar, default: Scalar | None) -> None:
    """Raises BadInput for a value that cannot be the owner's parameter `key`."""
    for part in (default, value):
        if part is not None and not isinstance(part, Scalar):
            raise BadInput(
                f"{owner}.{key} must be a number, true or false, or a word to be set, not {part!r}"
            )
    if isinstance(value, float) and not math.isfinite(value):
        raise BadInput(f"{owner}.{key} must be finite, got {value}")
    if default is not None and not _same_kind(value, default):
        raise BadInput(
            f"{owner}.{key} is {_kind(default)} like {format_scalar(default)}, "
            f"got {format_scalar(value)!r}"
        )


def share(value: Any) -> float:
    """`5%`, or the number 0.05. Raises ValueError, also for a bare number of 1 or more: `5` may
    stand for 5% or for 500%.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(%?)", str(value).strip())
    if not match or isinstance(value, bool):
        raise ValueError(f"a share is like 5% or 0.05, got {value!r}")
    number, percent = float(match[1]), match[2]
    if number >= 1 and not percent:
        raise ValueError(f"{value} may mean {number:g}% or {100 * number:g}%: write one of them")
    return number / 100 if percent else number


def _same_kind(value: Scalar, default: Scalar) -> bool:
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def _kind(default: Scalar) -> str:
    kinds = {bool: "true or false,", int: "a whole number", float: "a number", str: "a word"}
    return kinds[type(default)]
