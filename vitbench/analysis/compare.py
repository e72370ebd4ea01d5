"""Run against run: the ratio of medians with its interval, and a verdict for each case. Pure."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vitbench import devices
from vitbench.analysis import stats
from vitbench.cases.row import COLUMNS, name_of
from vitbench.errors import BadInput, nearest
from vitbench.instruments import memory
from vitbench.results.outcome import COUNTED, MEASURED, NOT_MEASURED, UNSUPPORTED
from vitbench.results.record import Record, subject_of

Word = Literal[
    "faster", "same", "slower", "changed", "undecided", "incomparable", "missing", "failed"
]
Side = Literal["base", "candidate"]
SIGNIFICANCE = 0.05
# A threshold below this many A/A floors would call what identical code shows.
FLOORS = 1.5
# No advice asks for more than this many times the rounds or blocks that were measured.
_MOST_EFFORT = 20

# What tells cases apart, and what two measurements must share for their times to compare.
IDENTITY = tuple(c.name for c in COLUMNS if c.name not in ("case", "device", "dtype"))
MACHINE = ("device", "dtype", "device_name", "torch")
# Counts that need no statistics; of peak memory, devices say what equal code may differ by.
_PEAK = "peak_memory_bytes"
EXACT = ("params", "macs", _PEAK)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a comparison says of one case.

    subject      the mechanism or backbone
    describe     the case among its neighbours
    word         faster, same, slower, undecided; incomparable, missing or failed without a ratio;
                 same or changed where a side was counted and not timed
    ratio        latency of the candidate over the base; None where there is none
    threshold    the slowdown that is called, as a share: the policy's, or the floor's
    why          for a word without a ratio, and for undecided: the reason, and what would help
    changed      exact columns that differ: name -> (base, candidate)
    row          of the base, or of the candidate where the base has none
    failed_side  for missing and failed: the side that lacks the case or failed
    faults       sentences, one for each limit of a policy that is broken
    """

    subject: str
    describe: str
    word: Word
    ratio: stats.Ratio | None
    threshold: float
    why: str
    changed: Mapping[str, tuple[object, object]]
    row: Record
    failed_side: Side | None = None
    faults: tuple[str, ...] = ()


def check_across(across: Sequence[str]) -> None:
    """Raises BadInput for a difference that cannot be waived."""
    for name in across:
        if name not in MACHINE:
            raise BadInput(f"no difference is called {name!r}; {nearest(name, MACHINE)}")


def compare(
    base: Sequence[Record],
    candidate: Sequence[Record],
    *,
    threshold: float | Mapping[str, float] = 0.05,
    across: Sequence[str] = (),
    blocks: Mapping[str, Sequence[float]] | None = None,
) -> list[Verdict]:
    """A verdict for every case of the base, and for those only the candidate has.

    threshold  slowdown that is called, as a share; or one for each case by its `describe`
    across     columns of MACHINE that may differ
    blocks     log(candidate / base) of interleaved blocks, by `describe`; where there are none, the
               medians of the rounds are compared
    """
    check_across(across)
    pairs = []
    for record, other in _matched(base, candidate, across):
        name = name_of(record or other or {})
        limit = threshold if isinstance(threshold, float | int) else threshold[name]
        shifts = None if blocks is None else blocks.get(name, ())
        pairs.append(_CasePair(name, record, other, limit, across, shifts))
    refused = [pair.without_ratio() for pair in pairs]
    ratios = _ratios([pair for pair, verdict in zip(pairs, refused, strict=True) if not verdict])
    p_values = [_UNKNOWN if verdict else next(ratios) for verdict in refused]
    slower = stats.holm([one.p_slower for one in p_values])
    faster = stats.holm([one.p_faster for one in p_values])
    return [
        verdict or pair.verdict(one.ratio, *ps)
        for pair, verdict, one, *ps in zip(pairs, refused, p_values, slower, faster, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class _Tested:
    """A ratio with its one-sided p-values, for the candidate being slower and being faster."""

    ratio: stats.Ratio
    p_slower: float = 1.0
    p_faster: float = 1.0


_UNKNOWN = _Tested(stats.Ratio(1.0, 0.0, math.inf, math.inf, stats.Interval(0.0, math.inf)))


def _ratios(pairs: Sequence[_CasePair]) -> Iterator[_Tested]:
    """From the blocks of each pair, or from the medians of its rounds."""
    medians = [pair.round_medians() for pair in pairs if pair.shifts is None]
    of_rounds = map(
        _Tested,
        stats.ratios_of_medians(medians),
        stats.p_slower_each(medians),
        stats.p_slower_each([(candidate, base) for base, candidate in medians]),
    )
    for pair in pairs:
        if pair.shifts is None:
            yield next(of_rounds)
        else:
            opposite = [-shift for shift in pair.shifts]
            p_values = map(stats.p_slower_in_blocks, (pair.shifts, opposite))
            yield _Tested(stats.ratio_of_blocks(pair.shifts), *p_values)


def _keys(across: Sequence[str]) -> Callable[[Record], tuple[object, ...]]:
    """What a case is matched by."""
    shared = [name for name in ("device", "dtype") if name not in across]
    cells = operator.itemgetter(*IDENTITY, *shared)
    return lambda record: tuple([cell or "" for cell in cells(record)])


def _matched(
    base: Sequence[Record], candidate: Sequence[Record], across: Sequence[str]
) -> list[tuple[Record | None, Record | None]]:
    """The same case on both sides, in the base's order; None where a side lacks it.

    A case on another device or in another dtype matches too: its verdict says incomparable.
    """
    key, key_elsewhere = _keys(across), _keys(("device", "dtype"))
    exact = {key(record): record for record in candidate}
    others = [exact.get(key(record)) for record in base]
    if None in others:
        elsewhere = {key_elsewhere(record): record for record in candidate}
        others = [
            other or elsewhere.get(key_elsewhere(record))
            for record, other in zip(base, others, strict=True)
        ]
    matched = set(map(id, others))
    pairs: list[tuple[Record | None, Record | None]] = [*zip(base, others, strict=True)]
    return pairs + [(None, record) for record in candidate if id(record) not in matched]


@dataclass(frozen=True, slots=True)
class _CasePair:
    """A case on both sides; None where a side lacks it."""

    name: str
    base: Record | None
    candidate: Record | None
    limit: float
    across: Sequence[str]
    shifts: Sequence[float] | None

    def without_ratio(self) -> Verdict | None:
        """The verdict where no times are compared; None where they are."""
        return self._incomparable() or (self._untimed() if self._is_untimed() else None)

    def verdict(self, ratio: stats.Ratio, p_slower: float, p_faster: float) -> Verdict:
        """From p-values that are corrected for the number of cases."""
        threshold = max(self.limit, FLOORS * ratio.floor if math.isfinite(ratio.floor) else 0.0)
        if ratio.low > 1 + threshold and p_slower <= SIGNIFICANCE:
            return self._verdict("slower", ratio=ratio, threshold=threshold)
        if lacking := self._lacking():
            return self._verdict("undecided", lacking, ratio=ratio, threshold=threshold)
        if ratio.high < 1 / (1 + threshold) and p_faster <= SIGNIFICANCE:
            return self._verdict("faster", ratio=ratio, threshold=threshold)
        if ratio.within.low >= 1 / (1 + self.limit) and ratio.within.high <= 1 + self.limit:
            return self._verdict("same", ratio=ratio, threshold=threshold)
        advice = self._advice(ratio, threshold)
        return self._verdict("undecided", advice, ratio=ratio, threshold=threshold)

    def _verdict(self, word: Word, why: str = "", **fields: Any) -> Verdict:
        record = self.base or self.candidate or {}
        return Verdict(
            subject=subject_of(record),
            describe=self.name,
            word=word,
            why=why,
            changed=self._changed(),
            row=record,
            **({"ratio": None, "threshold": self.limit} | fields),
        )

    def _both(self) -> tuple[Record, Record]:
        assert self.base is not None
        assert self.candidate is not None
        return self.base, self.candidate

    def round_medians(self) -> tuple[list[float], list[float]]:
        """Of both sides, which are measured."""
        base, candidate = self._both()
        return round_medians(base), round_medians(candidate)

    def _is_untimed(self) -> bool:
        """Whether a side was counted only."""
        return COUNTED in {record["status"] for record in (self.base, self.candidate) if record}

    def _incomparable(self) -> Verdict | None:
        """The verdict where there is no ratio."""
        sides: dict[Side, Record | None] = {"base": self.base, "candidate": self.candidate}
        for side, record in sides.items():
            if record is None:
                return self._verdict("missing", f"the {side} does not have it", failed_side=side)
        base, candidate = self._both()
        failed: dict[Side, Record] = {
            side: record
            for side, record in sides.items()
            if record is not None and record["status"] not in (MEASURED, COUNTED)
        }
        # A failure says more than a case that was not measured because its rival had failed.
        if said := {side: row for side, row in failed.items() if not _is_skipped(row)} or failed:
            why = "; ".join(f"{side}: {r['status']}: {r['message']}" for side, r in said.items())
            # What neither side supports is no fault of the candidate's.
            statuses = {row["status"] for row in said.values()}
            is_base = "candidate" not in said or (len(said) > 1 and statuses == {UNSUPPORTED})
            return self._verdict("failed", why, failed_side="base" if is_base else "candidate")
        for name in ("device", "dtype") if self._is_untimed() else MACHINE:
            values = base[name], candidate[name]
            if name not in self.across and str(values[0] or "") != str(values[1] or ""):
                why = f"{name} differs: {values[0]} and {values[1]}"
                return self._verdict("incomparable", why)
        if self.shifts is not None and not self.shifts:
            why = "candidate: no block was measured on both sides"
            return self._verdict("failed", why, failed_side="candidate")
        return None

    def _lacking(self) -> str:
        """Which counts of the base the candidate cannot be compared by, in words; "" for none."""
        base, candidate = self._both()
        names = [name for name in self._counts() if base[name] is not None]
        lacking = [name for name in names if candidate[name] is None]
        if candidate.get("macs_is_lower_bound") and not base.get("macs_is_lower_bound"):
            lacking.append("exact macs")
        return f"the candidate has no {', '.join(lacking)}" if lacking else ""

    def _counts(self) -> list[str]:
        """The exact columns that compare between the sides."""
        return [name for name in EXACT if name != _PEAK or self._memory_compares()]

    def _untimed(self) -> Verdict:
        base, _ = self._both()
        lacking = self._lacking() or ("" if any(base[name] for name in EXACT) else "no counts")
        if lacking:
            return self._verdict("undecided", lacking)
        compared = "counts compared"
        if not self._memory_compares():
            compared += ", but not peak memory: device_name, threads or torch differ"
        return self._verdict("changed" if self._changed() else "same", compared)

    def _advice(self, ratio: stats.Ratio, threshold: float) -> str:
        """How many more rounds or blocks would decide."""
        if self.shifts is not None:
            unit, count, fewest = "blocks", len(self.shifts), stats.TRIM_BLOCKS
        else:
            unit, fewest = "rounds on each side", stats.RANK_ROUNDS
            count = min(len(medians) for medians in self.round_medians())
        if count < 2:
            return f"a single one does not show the spread between processes: take more {unit}"
        is_inside = abs(math.log(ratio.value)) < math.log1p(self.limit)
        low, high = (ratio.within.low, ratio.within.high) if is_inside else (ratio.low, ratio.high)
        width = math.log(high / low) / 2
        room = abs(math.log1p(threshold) - abs(math.log(ratio.value)))
        needed = math.inf if room <= 0 else max(fewest, math.ceil(count * (width / room) ** 2))
        if needed > _MOST_EFFORT * count:
            return "the ratio lies on the threshold: more of the same would not settle it"
        if needed <= count:
            test = "rank" if self.shifts is None else "sign"
            return f"the interval allows it, the {test} test does not yet: take some more {unit}"
        return f"about {needed - count} more {unit} would settle it, here are {count}"

    def _memory_compares(self) -> bool:
        """Whether peak memory compares between the sides: what an allocation takes follows the
        version of torch, the device and its threads; what holds a library's buffers is never the
        same twice."""
        base, candidate = self._both()
        sources = {base.get("memory_source"), candidate.get("memory_source")}
        return sources.isdisjoint(memory.INEXACT) and all(
            str(base[name]) == str(candidate[name]) for name in ("torch", "device_name")
        )

    def _changed(self) -> dict[str, tuple[object, object]]:
        """Exact columns that both sides have and that differ."""
        if self.base is None or self.candidate is None:
            return {}
        pairs = {name: (self.base[name], self.candidate[name]) for name in self._counts()}
        changed: dict[str, tuple[object, object]] = {
            name: pair for name, pair in pairs.items() if None not in pair and len(set(pair)) > 1
        }
        peaks = [float(str(peak)) for peak in changed.get(_PEAK, ())]
        if peaks and devices.rules(str(self.base["device"])).is_same_memory(*peaks):
            del changed[_PEAK]
        return changed


def _is_skipped(record: Record) -> bool:
    return record["status"] == NOT_MEASURED


def round_medians(record: Record) -> list[float]:
    """The medians of a row's rounds, seconds."""
    return [float(word) for word in str(record["round_medians"] or "").split()]


def geometric_mean(verdicts: Sequence[Verdict]) -> float | None:
    """Of the ratios there are."""
    ratios = [verdict.ratio.value for verdict in verdicts if verdict.ratio is not None]
    return stats.geometric_mean(ratios) if ratios else None
