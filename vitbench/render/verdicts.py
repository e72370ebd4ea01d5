"""Verdicts as a table for people: ratios, intervals as a forest of lines, and words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from vitbench.analysis.compare import Verdict, Word
from vitbench.analysis.stats import Ratio
from vitbench.render import labels, tables

_COLOURS = {"slower": "red", "failed": "red", "missing": "red", "faster": "green"}
_GRAVEST: tuple[Word, ...] = (
    *("failed", "missing", "slower", "changed", "faster", "undecided", "incomparable", "same"),
)
_WIDTH = 31  # characters of a forest line; odd, so that 1 has a slot of its own


def foremost(verdicts: Sequence[Verdict], most: int = tables.MOST_ROWS) -> list[Verdict]:
    """What a terminal shows: all of them, or of more than `most` the gravest, in their order."""
    if len(verdicts) <= most:
        return list(verdicts)
    ranked = sorted(range(len(verdicts)), key=lambda i: _GRAVEST.index(verdicts[i].word))
    return [verdicts[index] for index in sorted(ranked[:most])]


def table(verdicts: Sequence[Verdict]) -> Table:
    """One row a case: the ratio, its interval in figures and drawn, the slowdown from which on it
    is called slower, the verdict, and remarks."""
    axis, rows = cells(verdicts)
    header = ("case", "latency ratio", "95% interval", axis, "limit", "verdict", "")
    styled: list[list[str | Text]] = [
        [*figures, Text(word, style=_COLOURS.get(word, "")), remarks]
        for *figures, word, remarks in rows
    ]
    return tables.listing(header, styled, right=(*header[1:3], header[4]))


def cells(verdicts: Sequence[Verdict]) -> tuple[str, list[tuple[str, ...]]]:
    """The axis of the forest, and for each case its name, ratio, interval in figures, interval
    drawn, limit, verdict, and remarks."""
    reach = _reach(verdicts)
    low, high = f"{math.exp(-reach):.2f}", f"{math.exp(reach):.2f}"
    axis = f"{low}{'1'.center(_WIDTH - len(low) - len(high))}{high}"
    names = labels.short([verdict.describe for verdict in verdicts])
    rows: list[tuple[str, ...]] = [
        (name, *_figures(v.ratio), _forest(v.ratio, reach), _limit(v), v.word, _remarks(v))
        for name, v in zip(names, verdicts, strict=True)
    ]
    return axis, rows


def _figures(ratio: Ratio | None) -> tuple[str, str]:
    if ratio is None:
        return "", ""
    high = "?" if math.isinf(ratio.high) else f"{ratio.high:.3f}"
    low = "?" if ratio.low == 0 else f"{ratio.low:.3f}"
    return f"{ratio.value:.3f}", f"{low} to {high}"


def _limit(verdict: Verdict) -> str:
    """The slowdown that is called; none where no times are compared."""
    return "" if verdict.ratio is None else f"+{verdict.threshold:.1%}"


def _remarks(verdict: Verdict) -> str:
    changed = [f"{name} {old} -> {new}" for name, (old, new) in verdict.changed.items()]
    return "; ".join([part for part in (verdict.why, *changed) if part])


def _reach(verdicts: Sequence[Verdict]) -> float:
    """How far the axis goes on either side of 1, as a logarithm; at least 10%, at most 2 times."""
    ends = [
        abs(math.log(end))
        for verdict in verdicts
        if verdict.ratio is not None
        for end in (verdict.ratio.low, verdict.ratio.high)
        if 0 < end < math.inf
    ]
    return min(max([math.log(1.1), *ends]), math.log(2))


def _forest(ratio: Ratio | None, reach: float) -> str:
    """A line with the interval as dashes, the ratio as a point, and a bar at 1."""
    line = [" "] * _WIDTH
    line[_WIDTH // 2] = "|"
    if ratio is None:
        return "".join(line)
    start, middle, end = (_slot(x, reach) for x in (ratio.low, ratio.value, ratio.high))
    for slot in range(start, end + 1):
        line[slot] = "-" if line[slot] == " " else "+"
    line[middle] = "o"
    return "".join(line)


def _slot(ratio: float, reach: float) -> int:
    if ratio <= 0:
        return 0
    share = 0.5 if math.isinf(ratio) else max(-1.0, min(1.0, math.log(ratio) / reach)) / 2
    return round((share + 0.5) * (_WIDTH - 1))
