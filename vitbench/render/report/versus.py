"""Runs of one report against the first of them: a sentence each, and the cases that differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vitbench.analysis import compare
from vitbench.analysis.compare import MACHINE, Verdict
from vitbench.render import labels
from vitbench.render.report.sources import Source

# Of the verdicts, what is told of cases that both runs measured.
_TOLD = ("faster", "slower", "same", "changed", "undecided", "incomparable", "failed")
_MOST_ROWS = 40


@dataclass(frozen=True, slots=True)
class Line:
    """A case of both runs; the ends of the interval as percentages of the axis."""

    name: str
    ratio: str
    interval: str
    word: str
    why: str
    low: float
    at: float
    high: float


@dataclass(frozen=True, slots=True)
class Versus:
    """A run against the first: ratios of latency, below 1 where this run is faster.

    rest  how many cases have no line
    """

    name: str
    base: str
    sentence: str
    across: str
    lines: tuple[Line, ...]
    rest: int
    axis: tuple[str, str]


def against_the_first(sources: Sequence[Source]) -> list[Versus]:
    """Each other run, in their order."""
    return [_versus(sources[0], other) for other in sources[1:]]


def _versus(base: Source, other: Source) -> Versus:
    differing = [name for name in MACHINE if _values(base, name) != _values(other, name)]
    verdicts = compare.compare(base.records, other.records, across=differing)
    counts = Counter[str](verdict.word for verdict in verdicts)
    told = [f"{counts[word]} {word}" for word in _TOLD if counts[word]]
    sentence = ", ".join(told) or "no case is in both"
    if mean := compare.geometric_mean(verdicts):
        sentence += f"; the geometric mean of the latency ratios is {mean:.3f}"
    shown = sorted((v for v in verdicts if v.ratio is not None), key=_weight)
    names = dict(zip(map(id, shown), labels.short([v.describe for v in shown]), strict=True))
    drawn = shown[:_MOST_ROWS]
    reach = _reach(drawn)
    return Versus(
        name=other.name,
        base=base.name,
        sentence=sentence,
        across=", ".join(differing).replace("_", " "),
        lines=tuple(_line(verdict, names[id(verdict)], reach) for verdict in drawn),
        rest=len(shown) - len(drawn),
        axis=(f"{math.exp(-reach):.2f}", f"{math.exp(reach):.2f}"),
    )


def _values(source: Source, name: str) -> set[object]:
    return {record[name] for record in source.records}


def _weight(verdict: Verdict) -> tuple[bool, float]:
    """The greatest differences that were found first."""
    assert verdict.ratio is not None
    return verdict.word not in ("faster", "slower"), -abs(math.log(verdict.ratio.value))


def _reach(verdicts: Sequence[Verdict]) -> float:
    """How far the axis goes on either side of 1, as a logarithm: to every ratio, and to the ends of
    intervals up to a factor of 2."""
    ratios = [verdict.ratio for verdict in verdicts if verdict.ratio is not None]
    ends = [abs(math.log(end)) for r in ratios for end in (r.low, r.high) if 0 < end < math.inf]
    values = [1.05 * abs(math.log(ratio.value)) for ratio in ratios]
    return max([math.log(1.1), *values, min(math.log(2), max(ends, default=0))])


def _line(verdict: Verdict, name: str, reach: float) -> Line:
    ratio = verdict.ratio
    assert ratio is not None

    def slot(value: float) -> float:
        share = 0.5 if math.isinf(value) else math.log(value) / reach / 2 if value > 0 else -0.5
        return round(100 * (0.5 + max(-0.5, min(0.5, share))), 1)

    high = "?" if math.isinf(ratio.high) else f"{ratio.high:.3f}"
    low = "?" if ratio.low <= 0 else f"{ratio.low:.3f}"
    return Line(
        name=name,
        ratio=f"{ratio.value:.3f}",
        interval=f"{low} to {high}",
        word=verdict.word,
        why=verdict.why,
        low=slot(ratio.low),
        at=slot(ratio.value),
        high=slot(ratio.high),
    )
