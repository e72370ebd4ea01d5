"""Numbers as people read them."""

from __future__ import annotations

import math

_STEPS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def si(value: float) -> str:
    """`12.3 G`, `512`: three significant digits and a decimal prefix."""
    scaled, prefix = _scaled(value)
    return f"{significant(scaled)}{prefix}"


def tick(value: float) -> str:
    """`200`, `5 G`: for the ticks of an axis, without digits that say nothing."""
    scaled, prefix = _scaled(value)
    return f"{scaled:g}{prefix}"


def _scaled(value: float) -> tuple[float, str]:
    steps = ((step, f" {prefix}") for step, prefix in _STEPS if abs(value) >= step)
    step, prefix = next(steps, (1.0, ""))
    return value / step, prefix


def significant(value: float) -> str:
    """Rounded to three significant digits, never in exponents: `1240`, `12.4`, `0.0124`."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    if abs(rounded) >= 1:
        return f"{rounded:.{max(0, 3 - len(str(int(abs(rounded)))))}f}"
    return f"{rounded:.{2 - math.floor(math.log10(abs(rounded)))}f}".rstrip("0")


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
