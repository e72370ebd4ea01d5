"""Insights in words: paragraphs of sentences, the clearest findings first."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vitbench.analysis.bound import Bound
from vitbench.analysis.capacity import Capacity
from vitbench.analysis.changes import Change
from vitbench.analysis.crossover import Crossover
from vitbench.analysis.flops_gap import FlopsGap
from vitbench.analysis.groups import latency_s
from vitbench.analysis.insight import Insights
from vitbench.analysis.pareto import Cost, Front
from vitbench.analysis.scaling import Exponent
from vitbench.cases.axes import AXES, text_of
from vitbench.render import labels, units
from vitbench.render.text import visible
from vitbench.results.record import Record

T = TypeVar("T")
# Of each kind of finding, and names in a sentence.
_MOST, _MOST_NAMES = 5, 6
_AGAINST: dict[Cost, str] = {
    "peak_memory_bytes": "peak memory",
    "macs": "MACs",
    "top1": "published top-1",
}
# What a setting is told by, besides the resolution; others only where they are not the default.
_ALWAYS = ("runtime", "dtype", "batch_size")
_UNTOLD = ("attention", "backbone", "resolution", "impl")


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences of one kind of finding.

    more  findings of this kind that are not told
    """

    title: str
    sentences: tuple[str, ...]
    more: int


def paragraphs(found: Insights, most: int = _MOST) -> list[Paragraph]:
    """One for each kind of which something was found."""
    kinds = [
        _told("crossovers", found.crossovers, crossover, most),
        _told("MACs against latency", found.gaps, gap, most),
        _told("fronts", _weighed(found.fronts), front, most),
        _told("growth with the tokens", _certain(found.exponents), exponent, most),
        _told("what bounds the cases", bounds(found.bounds), str, most),
        _told("what another runtime, dtype or device changes", found.changes, change, most),
        _told("what fits the memory", _tight(found.capacities), capacity, most),
    ]
    return [paragraph for paragraph in kinds if paragraph.sentences]


def _told(title: str, found: Sequence[T], sentence: Callable[[T], str], most: int) -> Paragraph:
    """Of so many findings; of a large run there are thousands."""
    sentences = tuple(visible(sentence(one)) for one in found[:most])
    return Paragraph(title, sentences, len(found) - len(sentences))


def _weighed(fronts: Sequence[Front]) -> list[Front]:
    """Those that decide something, the most decisive first."""
    deciding = [front for front in fronts if front.dominated]
    return sorted(deciding, key=lambda front: -len(front.dominated))


def _certain(exponents: Sequence[Exponent]) -> list[Exponent]:
    """The narrowest interval first."""
    return sorted(exponents, key=lambda one: one.within.high - one.within.low)


def _tight(capacities: Sequence[Capacity]) -> list[Capacity]:
    """Those first of which something does not fit."""
    return sorted(capacities, key=lambda one: one.exceeds is None)


def name(record: Record) -> str:
    """A mechanism or backbone, with the settings that are not the authors', and the implementation
    where it is not the default."""
    impl = str(record["impl"])
    return labels.subject(record) + ("" if impl == AXES["impl"].default else f" {impl}")


def setting(record: Record, without: Sequence[str] = ()) -> str:
    """`224 px, openvino, float32, batch 8 on AMD EPYC, 2 threads`."""
    words = [] if "resolution" in without else [f"{labels.resolution(record)} px"]
    for axis_name, axis in AXES.items():
        if not axis.meaning or axis_name in _UNTOLD or axis_name in without:
            continue
        text = text_of(record[axis_name])
        if text and (axis_name in _ALWAYS or text != text_of(axis.default)):
            words.append(axis.label(text))
    return ", ".join(words) + ("" if "device" in without else f" on {record['device_name']}")


def crossover(found: Crossover) -> str:
    """Tokens of layers, pixels of backbones."""
    record = found.winner[0]
    stride = float(record["stride"] or 0)
    unit, scale = ("tokens", stride) if stride else ("px", 1.0)
    at, low, high = (round(value / scale) for value in (found.at, found.low, found.high))
    where = setting(record, ["resolution"])
    return (
        f"{name(record)} overtakes {name(found.loser[0])} above {at} x {at} {unit} ({where}; "
        f"between {low} and {high}, the nearest sizes at which the order is clear)"
    )


def gap(found: FlopsGap) -> str:
    """The correlation, and the pair that is most misjudged."""
    within = f"{found.within.low:.2f} to {found.within.high:.2f}"
    text = (
        f"{setting(found.records[0])}: the rank correlation of MACs with latency is "
        f"{found.correlation:.2f} ({within}, {len(found.records)} subjects)"
    )
    if (pair := found.misjudged) is None:
        return text
    return (
        f"{text}; most misjudged is {name(pair.slow)}, which has {pair.macs:.1f} times fewer MACs "
        f"than {name(pair.fast)} and takes {pair.latency:.1f} times as long"
    )


def front(found: Front) -> str:
    """Who is on it, and of whom there is no need to think."""
    where, against = setting(found.points[0]), _AGAINST[found.against]
    on = _names(found.points)
    off = ", ".join(
        f"{name(one.record)} (by {name(one.by)})" for one in found.dominated[:_MOST_NAMES]
    )
    rest = len(found.dominated) - _MOST_NAMES
    more = f" and {rest} more" if rest > 0 else ""
    return f"{where}, front of throughput and {against}: {on}; beaten: {off}{more}"


def exponent(found: Exponent) -> str:
    """`msa: latency grows with the tokens to the power of 1.72 (1.5 to 1.9) ...`."""
    first, last = found.records[0], found.records[-1]
    sizes = f"{labels.resolution(first)} to {labels.resolution(last)} px"
    return (
        f"{name(first)}: latency grows with the tokens to the power of {found.value:.2f} "
        f"({found.within.low:.2f} to {found.within.high:.2f}; {sizes}, "
        f"{setting(first, ['resolution'])})"
    )


def bounds(found: Sequence[Bound]) -> list[str]:
    """How many cases each limit bounds, with the worst and the best share of the roofline."""
    counts = Counter(one.limit for one in found)
    sentences = []
    for limit, count in counts.most_common():
        own = sorted(
            (one for one in found if one.limit == limit and one.roofline is not None), key=_roofline
        )
        text = f"{limit}: {count} of {len(found)} cases"
        if len(own) == 1:
            text += f"; {name(own[0].record)} reaches {_roofline(own[0]):.0%} of the roofline"
        elif own:
            text += (
                f"; they reach {_roofline(own[0]):.0%} ({name(own[0].record)}) to "
                f"{_roofline(own[-1]):.0%} ({name(own[-1].record)}) of the roofline"
            )
        sentences.append(text)
    return sentences


def _roofline(one: Bound) -> float:
    return one.roofline or 0.0


def capacity(found: Capacity) -> str:
    """What fits, and what does not any more."""
    record = found.fits or found.exceeds
    assert record is not None
    amount = f"{units.significant(found.memory_bytes / 2**30)} GiB"
    where = setting(record, [found.axis])
    size = f"{name(record)} ({where})"
    if found.fits is None:
        return f"{size}: not even {_size(found, found.exceeds)} fits {amount}"
    text = f"{size}: {_size(found, found.fits)} fits {amount}"
    if found.exceeds is None:
        return f"{text}, the largest that was measured"
    return f"{text}, {_size(found, found.exceeds)} does not"


def _size(found: Capacity, record: Record | None) -> str:
    assert record is not None
    if found.axis == "resolution":
        return f"{labels.resolution(record)} px"
    return f"batch {record['batch_size']}"


def change(found: Change) -> str:
    """How many times as fast, over how many cases, and who gains and loses most."""
    best, worst = (latency_s(a) / latency_s(b) for a, b in (found.best, found.worst))
    interval = "" if math.isinf(found.high) else f" ({found.low:.2f} to {found.high:.2f})"
    text = (
        f"{found.other} is {found.speedup:.2f} times as fast as {found.base}{interval}: the "
        f"geometric mean of {found.cases} cases, of which {found.faster} are faster, "
        f"{found.slower} slower and {found.tied} not told apart"
    )
    if found.cases == 1:
        return text
    return (
        f"{text}; from {worst:.2f} times ({name(found.worst[0])}) to {best:.2f} times "
        f"({name(found.best[0])})"
    )


def _names(records: Sequence[Record]) -> str:
    names = list(dict.fromkeys(map(name, records)))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
