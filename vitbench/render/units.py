"""Numbers as people read them."""

from __future__ import annotations

import math

_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si(value: float, digits: int = 3) -> str:
    """`12.3 G`, `512`: three significant digits and a decimal prefix."""
    for step, prefix in _STEPS:
        if abs(value) >= step:
            return f"{significant(value / step, digits)} {prefix}"
    return significant(value, digits)


def tick(value: float) -> str:
    """`200`, `5 G`: for the ticks of an axis, without digits that say nothing."""
    for step, prefix in _STEPS:
        if abs(value) >= step:
            return f"{value / step:g} {prefix}"
    return f"{value:g}"


def significant(value: float, digits: int = 3) -> str:
    """Rounded to significant digits, never in exponents: `1240`, `12.4`, `0.0124`."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    whole = len(str(int(abs(rounded)))) if abs(rounded) >= 1 else 0
    if whole:
        return f"{rounded:.{max(0, digits - whole)}f}"
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:.{decimals}f}".rstrip("0")


def seconds(value: float) -> str:
    """`1.23 ms`, `45.6 µs`, `2.10 s`."""
    for step, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= step:
            return f"{significant(value / step)} {unit}"
    return f"{significant(value / 1e-9)} ns"


def duration(value: float) -> str:
    """`8 s`, `3 min 20 s`, `1 h 05 min`: for people who wait."""
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def mebibytes(value: float) -> str:
    """Bytes in MiB."""
    return f"{significant(value / 2**20)}"
