"""Text of options -> values. Every slip of the keyboard is one sentence (BadInput)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitbench.cases.axes import split
from vitbench.errors import BadInput, nearest


def words(text: str) -> tuple[str, ...]:
    """`device,torch`."""
    return tuple(split(text))


def params(items: list[str]) -> dict[str, dict[str, tuple[Any, ...]]]:
    """`hilo.alpha=0.5,0.9` -> {hilo: {alpha: (0.5, 0.9)}}."""
    from vitbench.cases.scalars import parse_scalar

    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    for item in items:
        target, equals, values = item.partition("=")
        name, dot, key = target.strip().rpartition(".")  # the name of a class may hold dots
        if not (equals and dot and name and key):
            raise BadInput(f"--param takes NAME.KEY=VALUES like hilo.alpha=0.5,0.9, got {item!r}")
        found.setdefault(name, {})[key] = tuple(parse_scalar(value) for value in split(values))
    return found


def own_params(items: list[str]) -> dict[str, Any]:
    """`alpha=0.5` of one mechanism -> {alpha: 0.5}."""
    from vitbench.cases.scalars import parse_scalar

    found = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not (equals and key.strip() and value.strip()):
            raise BadInput(f"--param takes KEY=VALUE like alpha=0.5, got {item!r}")
        found[key.strip()] = parse_scalar(value)
    return found


def share(option: str, text: str) -> float:
    """`5%` or `0.05`, the value of an option."""
    from vitbench.cases import scalars

    try:
        return scalars.share(text)
    except ValueError as error:
        raise BadInput(f"{option}: {error}") from None


def amount_of_memory(text: str) -> int | None:
    """`8GiB`, `500MB`, `1000000`; `none` for no limit."""
    if text.strip().lower() == "none":
        return None
    units = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 1e3, "mb": 1e6, "gb": 1e9}
    number = text.rstrip("abikgmABIKGM ")
    unit = text[len(number) :].strip().lower()
    try:
        return int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise BadInput(f"an amount of memory is like 8GiB, 500MB or none, got {text!r}") from None


def count(text: str) -> float:
    """`28M`, `1.5G`, `28000000`: a number of parameters."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]?)", text.strip())
    if not match or not float(match[1]):
        raise BadInput(f"a number of parameters is like 28M, 900k or 28000000, got {text!r}")
    return float(match[1]) * {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]]


def latency(text: str) -> tuple[float, float | None]:
    """`20ms`, `0.5s`, `20ms p95` -> seconds, and the percentile; None for the median."""
    match = re.fullmatch(
        r"(\d+(?:\.\d+)?)\s*(us|ms|s)(?:\s+(?:p(\d{1,2}(?:\.\d+)?)|median))?", text.strip()
    )
    if not match or not float(match[1]):
        raise BadInput(f"a latency is like 20ms, 0.5s or '20ms p95', got {text!r}")
    percentile = None if match[3] is None else float(match[3])
    if percentile is not None and percentile < 50:
        raise BadInput(f"a percentile is from 50 to 100, got p{match[3]} in {text!r}")
    return float(match[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0}[match[2]], percentile


def duration(text: str) -> float:
    """`10m`, `90s`, `1h30m` or seconds."""
    match = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip())
    if not match or not any(match.groups()):
        raise BadInput(f"a duration is like 10m, 90s or 1h30m, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if not total:
        raise BadInput(f"a duration is longer than nothing, got {text!r}")
    return total


def subject(text: str, plugins: Mapping[str, Path]) -> tuple[str, str]:
    """`hilo`, `litv2_s[attention=sra]`: the axis that it is a value of, and its name."""
    import attentions
    from vitbench.cases import backbone_names as models
    from vitbench.cases import class_names
    from vitbench.subjects.plugins import is_backbone

    name, written = models.parse(text)
    if name in plugins:
        return "backbone" if is_backbone(plugins[name]) else "attention", name
    if name in attentions.names():
        return "attention", name
    if class_names.is_layer(name, written):
        return "attention", name
    if name not in models.NAMES and ":" not in name:
        known = nearest(name, (*attentions.names(), *models.NAMES, *plugins))
        raise BadInput(f"no mechanism or backbone is called {name!r}; {known}")
    return "backbone", name
