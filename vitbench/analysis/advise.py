"""Which of the measured rows to use, within limits: one pick, and why each rival lost. Pure.

A limit is kept by the unfavourable end: the upper end of an interval, the slowest round. What is
not known does not keep it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from vitbench.analysis import stats
from vitbench.analysis.accuracy import published_top1
from vitbench.analysis.groups import latency_s, trusted
from vitbench.analysis.order import NEAR, Rounds, Spread
from vitbench.cases.axes import AXES
from vitbench.cases.limits import Limits
from vitbench.cases.row import CONDITIONS
from vitbench.errors import BadInput
from vitbench.instruments import memory
from vitbench.results.outcome import COUNTED, MEASURED
from vitbench.results.record import Record

Kind = Literal["latency", "memory", "top1", "macs", "params"]
Cause = Literal["slower", "level", "limit", "unknown", "untrusted", "failed"]


@dataclass(frozen=True, slots=True)
class Miss:
    """A limit that a row does not keep.

    value  at its unfavourable end; None: unknown
    """

    kind: Kind
    limit: float
    value: float | None

    @property
    def factor(self) -> float:
        """By how much it misses, above 1; infinite where the value is unknown."""
        if self.value is None:
            return math.inf
        return self.limit / self.value if self.kind == "top1" else self.value / self.limit


@dataclass(frozen=True, slots=True)
class Lost:
    """A row that is not the pick, and why.

    times   the latency over that of the pick; None where it has none
    misses  for "limit" and "unknown": the limits
    """

    record: Record
    cause: Cause
    times: float | None = None
    misses: tuple[Miss, ...] = ()


@dataclass(frozen=True, slots=True)
class Advice:
    """The answer for one setting.

    pick       None: no row keeps to the limits
    is_least   it was taken of several that are level, for it takes the least memory
    level      rows that nothing tells from the pick, itself left out
    near       those of `level`, and slower ones, whose latency is within 20% of the pick's
    runner_up  the best row that lost to the pick; None: there is none
    lost       every other row, those of `level` first, then by latency
    nearest    without a pick: the row that misses the limits by the least, with what it misses
    """

    limits: Limits
    pick: Record | None
    is_least: bool = False
    level: tuple[Record, ...] = ()
    near: tuple[Record, ...] = ()
    runner_up: Record | None = None
    lost: tuple[Lost, ...] = ()
    nearest: Lost | None = None


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of cases, by id, round by round, seconds."""

    rounds: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)

    def percentile(self, record: Record, share: float) -> float | None:
        """The highest of its rounds; None where one of them has too few samples."""
        found = [stats.percentile(own, share) for own in self.rounds.get(str(record["case"]), ())]
        return None if not found or None in found else max(value for value in found if value)


def ask(rows: Sequence[Record]) -> None:
    """Raises BadInput where the rows are of several questions."""
    if len({bool(row["backbone"]) for row in rows}) > 1:
        raise BadInput(
            "these rows are of layers and of whole models; choose with --attention, --backbone or "
            "--task"
        )
    for name in (*CONDITIONS, "device", "device_name", "torch"):
        values = sorted({str(row[name]) for row in rows if row["status"] == MEASURED})
        if len(values) > 1:
            option = f"; choose one with {AXES[name].option}" if name in AXES else ""
            option = "; choose one with --device" if name == "device" else option
            shown = ", ".join(values[:6]) + (", ..." if len(values) > 6 else "")
            raise BadInput(f"these rows are of {len(values)} values of {name}: {shown}{option}")
    sizes = sorted({(int(row["image_height"] or 0), int(row["image_width"] or 0)) for row in rows})
    if len(sizes) > 1:
        shown = ", ".join(str(h) if h == w else f"{h}x{w}" for h, w in sizes[:6])
        more = ", ..." if len(sizes) > 6 else ""
        raise BadInput(
            f"these rows are of {len(sizes)} resolutions: {shown}{more}; choose one with "
            "--resolution"
        )


def advise(rows: Sequence[Record], limits: Limits, samples: Samples | None = None) -> Advice:
    """The fastest of the rows of one setting that keep to the limits.

    Of rows that nothing tells apart, the one with the least memory, where their memory compares;
    else the fastest.
    """
    samples = samples or Samples()
    good = trusted(rows)
    is_good = {id(row) for row in good}
    lost = [_unfit(row) for row in rows if id(row) not in is_good]
    missing = {id(row): misses(row, limits, samples) for row in good}
    able = [row for row in good if not missing[id(row)]]
    unable = [_missing(row, missing[id(row)]) for row in good if missing[id(row)]]
    if not able:
        known = sorted(unable, key=lambda one: max(miss.factor for miss in one.misses))
        lost = [*unable, *lost]
        return Advice(limits, None, lost=tuple(lost), nearest=known[0] if known else None)
    spread = Spread.of(Rounds.of(good))
    level = spread.level(able)
    is_least = len(level) > 1 and memory_compares(level)
    pick = min(level, key=peak_bytes) if is_least else level[0]
    others = sorted((row for row in able if row is not pick), key=latency_s)
    is_level = {id(row) for row in level}
    ahead = [
        Lost(row, "level" if id(row) in is_level else "slower", _times(row, pick)) for row in others
    ]
    ahead.sort(key=lambda one: one.cause != "level")
    behind = [
        replace(one, times=_times(one.record, pick)) if one.record["latency_s"] else one
        for one in (*unable, *lost)
    ]
    return Advice(
        limits,
        pick,
        is_least=is_least,
        level=tuple(one.record for one in ahead if one.cause == "level"),
        near=tuple(row for row in others if latency_s(row) <= NEAR * latency_s(pick)),
        runner_up=ahead[0].record if ahead else None,
        lost=(*ahead, *behind),
    )


def _times(row: Record, pick: Record) -> float:
    return latency_s(row) / latency_s(pick)


def _unfit(row: Record) -> Lost:
    """A row of which no order is read."""
    is_timed = row["status"] == MEASURED
    return Lost(row, "untrusted" if is_timed or row["status"] == COUNTED else "failed")


def _missing(row: Record, misses: tuple[Miss, ...]) -> Lost:
    is_unknown = all(miss.value is None for miss in misses)
    return Lost(row, "unknown" if is_unknown else "limit", misses=misses)


def misses(row: Record, limits: Limits, samples: Samples) -> tuple[Miss, ...]:
    """The limits that a row does not keep, or of which nobody knows whether it does."""
    found = []
    if limits.latency_s is not None:
        value = _latency_at(row, limits.percentile, samples)
        if value is None or value > limits.latency_s:
            found.append(Miss("latency", limits.latency_s, value))
    counts: tuple[tuple[Kind, float | None, str], ...] = (
        ("memory", limits.memory_bytes, "peak_memory_bytes"),
        ("macs", limits.macs, "macs"),
        ("params", limits.params, "params"),
    )
    for kind, limit, column in counts:
        count = None if row[column] is None else float(str(row[column]))
        if limit is not None and (count is None or count > limit):
            found.append(Miss(kind, limit, count))
    if limits.macs is not None and row["macs_is_lower_bound"] and not found:
        found.append(Miss("macs", limits.macs, None))
    if limits.top1 is not None:
        known = published_top1(row) if row["backbone"] else None
        percent = None if known is None else known.percent
        if percent is None or percent < limits.top1:
            found.append(Miss("top1", limits.top1, percent))
    return tuple(found)


def _latency_at(row: Record, percentile: float | None, samples: Samples) -> float | None:
    """The upper end: of the median its interval's, of a percentile the highest of the rounds."""
    if percentile is not None:
        return samples.percentile(row, percentile)
    high = row["latency_high_s"]
    return None if high is None else float(high)


def peak_bytes(row: Record) -> float:
    """0 where it is unknown."""
    return float(row["peak_memory_bytes"] or 0)


def memory_compares(rows: Sequence[Record]) -> bool:
    """Whether every peak was read, and in the same exact way."""
    sources = {row["memory_source"] for row in rows}
    is_read = all(row["peak_memory_bytes"] is not None for row in rows)
    return is_read and len(sources) == 1 and not sources & {*memory.INEXACT}


def settled(advice: Advice, turns: Mapping[str, tuple[str, float | None]]) -> Advice:
    """The advice after the rows near the pick were measured against it in turns.

    turns  of each such row, by its case: `faster` or `slower` than the pick, or another word, and
           the latency over that of the pick

    Only the fastest of all takes the pick's place; rows that turns do not tell from the pick are
    level with it.
    """
    assert advice.pick is not None
    faster = {case: times for case, (word, times) in turns.items() if word == "faster" and times}
    if faster:
        best = min(faster, key=lambda case: faster[case])
        pick = next(row for row in advice.near if row["case"] == best)
        scale = faster[best]
    else:
        pick, scale = advice.pick, 1.0
    lost = [Lost(advice.pick, "slower", 1 / scale)] if faster else []
    for one in advice.lost:
        word, times = turns.get(str(one.record["case"]), ("", None))
        if one.record is pick:
            continue
        if times is None:
            own = None if one.times is None else one.times / scale
            lost.append(Lost(one.record, one.cause, own, one.misses))
        elif word == "slower" or (faster and times / scale > 1):
            lost.append(Lost(one.record, "slower", times / scale))
        else:
            lost.append(Lost(one.record, "level", times / scale))
    ahead = [one for one in lost if one.cause in ("level", "slower")]
    ahead.sort(key=lambda one: (one.cause != "level", one.times or 0))
    behind = [one for one in lost if one.cause not in ("level", "slower")]
    return Advice(
        advice.limits,
        pick,
        is_least=advice.is_least and not faster,
        level=tuple(one.record for one in ahead if one.cause == "level"),
        runner_up=ahead[0].record if ahead else None,
        lost=(*ahead, *behind),
    )
