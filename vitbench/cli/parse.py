"""Text of options -> values. Every slip of the keyboard is one sentence (BadInput)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import attentions
from vitbench.errors import BadInput


def split(text: str) -> list[str]:
    """`a,b` -> [a, b]. An empty item is a slip of the keyboard, and is refused."""
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise BadInput(f"a list is values with commas between, got {text!r}")
    return items


def wholes(option: str) -> Callable[[str], tuple[int, ...]]:
    """A parser of `8,16` for an option."""

    def parse(text: str) -> tuple[int, ...]:
        try:
            return tuple(int(item) for item in split(text))
        except ValueError:
            raise BadInput(f"{option} takes whole numbers like 8,16, got {text!r}") from None

    return parse


def truths(option: str) -> Callable[[str], tuple[bool, ...]]:
    """A parser of `true,false` for an option."""

    def parse(text: str) -> tuple[bool, ...]:
        words = {"true": True, "false": False, "yes": True, "no": False}
        for item in split(text):
            if item.lower() not in words:
                raise BadInput(f"{option} takes true, false or true,false, got {item!r}")
        return tuple(words[item.lower()] for item in split(text))

    return parse


def mechanisms(text: str) -> tuple[str, ...]:
    """`msa,hilo`, or `all`."""
    items = [attentions.names() if item == "all" else (item,) for item in split(text)]
    return tuple(dict.fromkeys(name for group in items for name in group))


def resolutions(text: str) -> tuple[Any, ...]:
    """`224,800x1280`."""
    from vitbench.cases.case import Resolution

    return tuple(Resolution.parse(item) for item in split(text))


def dtypes(text: str) -> tuple[str, ...]:
    """`fp32,bfloat16`, short names made long."""
    from vitbench.cases.case import DTYPE_ALIASES

    return tuple(DTYPE_ALIASES.get(item, item) for item in split(text))


def words(text: str) -> tuple[str, ...]:
    """`eager,fused`."""
    return tuple(split(text))


def backbones(text: str) -> tuple[str, ...]:
    """`litv2_s[attention=sra,sr_ratio=2],resnet50`."""
    from vitbench.cases import backbone_names as models

    return tuple(models.split(text))


def params(items: list[str]) -> dict[str, dict[str, tuple[Any, ...]]]:
    """`hilo.alpha=0.5,0.9` -> {hilo: {alpha: (0.5, 0.9)}}."""
    from vitbench.cases.scalars import parse_scalar

    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    for item in items:
        target, equals, values = item.partition("=")
        name, dot, key = target.strip().partition(".")
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


def one(text: str, parse: Callable[[str], tuple[Any, ...]]) -> Any:
    """The one value of an option that takes no list."""
    values = parse(text)
    if len(values) != 1:
        raise BadInput(f"one value is needed here, got {text!r}")
    return values[0]


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
