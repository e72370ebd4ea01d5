"""What a tuning run ends with: the best setting of each contest, and by how much. Pure.

A contest is the settings of one subject where all else is equal. The best one is chosen by all
rounds, and compared with the others by the last ones alone, in which nothing was given up: a
setting that was chosen for its luck in earlier rounds has none there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from vitbench.analysis import stats
from vitbench.analysis.advise import Miss, Samples, memory_compares, misses, peak_bytes
from vitbench.analysis.groups import groups, latency_s
from vitbench.analysis.halving import LEAST, Estimates, survivors
from vitbench.analysis.stats import Ratio
from vitbench.cases.limits import Limits
from vitbench.cases.tuning import Tuning
from vitbench.results.outcome import MEASURED, NOT_MEASURED
from vitbench.results.record import Record

# What a contest chooses among.
CHOSEN = ("settings", "dim", "num_heads", "dtype", "impl")
# Seconds of one call, the median of a round: by case, then by the number of the round.
Medians = Mapping[str, Mapping[int, float]]
# Standard errors beyond which one setting is faster than another.
_ERRORS = 2.0
Cause = Literal["level", "slower", "given_up", "limit", "failed", "unmeasured"]


@dataclass(frozen=True, slots=True)
class Rival:
    """A setting that is not the pick, and why.

    times   its latency over that of the pick; None where it has none
    ratio   the same with its interval, where the last rounds measured both
    misses  for "limit": what it does not keep to
    """

    record: Record
    cause: Cause
    times: float | None = None
    ratio: Ratio | None = None
    misses: tuple[Miss, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a contest ended.

    rows      all settings, the authors' first
    pick      the fastest that keeps to the limits; of those within 2% the authors' setting, whose
              accuracy is known, else the one with the least memory; None: none keeps to the limits
    rivals    the others, the fastest first
    default   the authors' setting; None where it is no row
    gain      the latency of the authors' setting over the pick's; None where the pick is it, or
              the last rounds did not measure both
    fewest    of the settings that keep to the limits, the one with the fewest MACs, unless that is
              the pick: what one would choose by MACs
    counts_macs  whether one of them has MACs that are more than a lower bound
    fronts    by "peak_memory_bytes" and "macs": the settings that keep to the limits of which no
              other is faster beyond noise and costs no more, the fastest first
    analytic  the rows of which none has both fewer MACs and fewer parameters
    """

    rows: tuple[Record, ...]
    pick: Record | None
    rivals: tuple[Rival, ...]
    default: Record | None
    gain: Ratio | None
    fewest: Rival | None
    counts_macs: bool
    fronts: Mapping[str, tuple[Record, ...]]
    analytic: tuple[Record, ...]


def contests(records: Sequence[Record]) -> list[list[Record]]:
    """The rows by what they do not choose among, in their order."""
    return groups(records, CHOSEN)


def open_cases(
    records: Sequence[Record],
    medians: Medians,
    tuning: Tuning,
    joined: Mapping[str, int],
    round_index: int,
) -> set[str]:
    """The cases that a round measures, by what the rounds before it say.

    joined  the round in which a drawn case came in; the others were there from the first on
    """
    return {
        case
        for rows in contests(records)
        for case in _open(rows, medians, tuning, joined, round_index)
    }


def _open(
    rows: Sequence[Record],
    medians: Medians,
    tuning: Tuning,
    joined: Mapping[str, int],
    round_index: int,
) -> set[str]:
    kept = {*tuning.defaults} & {_id(row) for row in rows}
    costs = _costs(rows)
    over = {
        _id(row)
        for row in rows
        if row["status"] == MEASURED and misses(row, _of_counts(tuning.limits), Samples())
    }
    left: set[str] = set()
    for index in range(round_index + 1):
        left |= {_id(row) for row in rows if joined.get(_id(row), 0) == index}
        if index == round_index:
            break
        if index < tuning.narrowing:
            able = left & costs.keys() - (over - kept)  # what failed meanwhile has no costs
            rounds = [
                {case: own[number] for case in able if number in (own := medians[case])}
                for number in range(index + 1)
            ]
            left = survivors(able, rounds, costs, kept) if able else set()
    return left


def _of_counts(limits: Limits) -> Limits:
    """The limits that one round tells whether a setting keeps to."""
    return replace(limits, latency_s=None)


def _costs(rows: Sequence[Record]) -> dict[str, tuple[float, ...]]:
    """What each setting takes besides time: its peak memory, where that compares, and where the
    dtype is chosen the error of its output."""
    timed = [row for row in rows if row["status"] == MEASURED]
    by_memory, by_error = memory_compares(timed), len({row["dtype"] for row in rows}) > 1
    costs = {}
    for row in timed:
        own = [peak_bytes(row)] if by_memory else []
        if by_error:
            error = row["error_rms"]
            own.append(math.inf if error is None else float(error))
        costs[_id(row)] = tuple(own)
    return costs


def outcomes(records: Sequence[Record], medians: Medians, tuning: Tuning) -> list[Outcome]:
    """One for each contest."""
    return [_outcome(rows, medians, tuning) for rows in contests(records)]


def _outcome(rows: Sequence[Record], medians: Medians, tuning: Tuning) -> Outcome:
    kept = {*tuning.defaults}
    default = next((row for row in rows if row["case"] in kept), None)
    timed = [row for row in rows if row["status"] == MEASURED]
    missed = {_id(row): misses(row, tuning.limits, Samples()) for row in timed}
    able = [row for row in timed if not missed[_id(row)]]
    cheapest = analytic(rows)
    if not able:
        unfit = tuple(_unfit(row, missed.get(_id(row), ())) for row in rows)
        return Outcome(tuple(rows), None, unfit, default, None, None, False, {}, cheapest)
    estimates = Estimates.of(rounds_of(timed, medians))
    last = _last_rounds(able, medians, tuning)
    finalists = [row for row in able if last and {*last} <= medians[_id(row)].keys()] or able
    best = min(finalists, key=lambda row: estimates.values[_id(row)])
    # Where what they lost to has failed since, one that was given up is the best after all.
    revived = [row for row in able if _is_slower(best, row, estimates)]
    best = min([best, *revived], key=lambda row: estimates.values[_id(row)])
    ratios = {_id(row): _ratio(row, best, medians, last) for row in finalists if row is not best}
    as_fast = [row for row in finalists if row is not best and _is_as_fast(ratios[_id(row)])]
    pick = _pick(best, as_fast, default)

    def rival(row: Record) -> Rival:
        if row not in able:
            return _unfit(row, missed.get(_id(row), ()))
        times = _times(row, pick, estimates)
        if row not in finalists:
            return Rival(row, "given_up", times)
        ratio = _ratio(row, pick, medians, last)
        if ratio is None:
            is_level = not _is_slower(row, pick, estimates)
        else:
            is_level = ratio.low <= 1 or ratio.value <= 1 + LEAST
        return Rival(row, "level" if is_level else "slower", times, ratio)

    rivals = sorted((rival(row) for row in rows if row is not pick), key=_order)
    by_case = {_id(one.record): one for one in rivals}
    costed = [row for row in able if row["macs"] and not _is_bound(row, "macs")]
    fewest = min(
        costed, key=lambda row: (row["macs"], row is not pick, latency_s(row)), default=None
    )
    gain = None
    if default is not None and default in finalists and default is not pick:
        gain = _ratio(default, pick, medians, last)
    return Outcome(
        rows=tuple(rows),
        pick=pick,
        rivals=tuple(rivals),
        default=default,
        gain=gain,
        fewest=None if fewest is None else by_case.get(_id(fewest)),
        counts_macs=bool(costed),
        fronts=_fronts(able, estimates),
        analytic=cheapest,
    )


def _pick(best: Record, as_fast: Sequence[Record], default: Record | None) -> Record:
    """Of the best and the settings that are as fast."""
    if default is not None and default in as_fast:
        return default
    return min([best, *as_fast], key=peak_bytes) if memory_compares([best, *as_fast]) else best


def _id(row: Record) -> str:
    return str(row["case"])


def rounds_of(rows: Sequence[Record], medians: Medians) -> list[dict[str, float]]:
    """The medians of each round that measured one of the rows."""
    known = {_id(row): medians[_id(row)] for row in rows}
    numbers = sorted({number for own in known.values() for number in own})
    return [{c: own[number] for c, own in known.items() if number in own} for number in numbers]


def _last_rounds(rows: Sequence[Record], medians: Medians, tuning: Tuning) -> list[int]:
    """Those after the last one that gave settings up; where the run ended before, all rounds that
    are common to the settings that were measured most."""
    numbers = sorted({number for row in rows for number in medians[_id(row)]})
    last = [number for number in numbers if number >= tuning.narrowing]
    return last if len(last) > 1 else numbers


def _ratio(row: Record, pick: Record, medians: Medians, last: Collection[int]) -> Ratio | None:
    """The latency of a row over the pick's, by the rounds of both: each is one observation, and
    what it has in common cancels."""
    own, its = medians[_id(row)], medians[_id(pick)]
    common = [number for number in last if number in own and number in its]
    shifts = [math.log(own[number] / its[number]) for number in common]
    return stats.ratio_of_blocks(shifts) if len(shifts) > 1 else None


def _is_as_fast(ratio: Ratio | None) -> bool:
    return ratio is not None and ratio.value <= 1 + LEAST


def _is_slower(row: Record, other: Record, estimates: Estimates) -> bool:
    """Whether a row is slower than another beyond noise, by all rounds."""
    gap = estimates.values[_id(row)] - estimates.values[_id(other)]
    return gap > max(LEAST, _ERRORS * estimates.error(_id(other), _id(row)))


def _times(row: Record, pick: Record, estimates: Estimates) -> float:
    return math.exp(estimates.values[_id(row)] - estimates.values[_id(pick)])


def _unfit(row: Record, missed: tuple[Miss, ...]) -> Rival:
    if row["status"] == MEASURED:
        return Rival(row, "limit", misses=missed)
    return Rival(row, "unmeasured" if row["status"] == NOT_MEASURED else "failed")


def _order(one: Rival) -> tuple[bool, float]:
    return one.times is None, one.times or 0.0


def _fronts(rows: Sequence[Record], estimates: Estimates) -> dict[str, tuple[Record, ...]]:
    found = {}
    for column in ("peak_memory_bytes", "macs"):
        known = [row for row in rows if row[column] is not None and not _is_bound(row, column)]
        if column == "peak_memory_bytes" and not memory_compares(known):
            continue
        best = [row for row in known if not _is_beaten(row, known, column, estimates)]
        found[column] = tuple(sorted(best, key=lambda row: estimates.values[_id(row)]))
    return {column: own for column, own in found.items() if own}


def _is_bound(row: Record, column: str) -> bool:
    """MACs that are only a lower bound order nothing."""
    return column == "macs" and bool(row["macs_is_lower_bound"])


def _is_beaten(row: Record, rows: Sequence[Record], column: str, estimates: Estimates) -> bool:
    """Whether another row costs no more and is faster beyond noise, or less and is as fast."""
    for other in rows:
        if other is row or float(other[column] or 0) > float(row[column] or 0):
            continue
        if _is_slower(row, other, estimates):
            return True
        is_faster = estimates.values[_id(other)] < estimates.values[_id(row)]
        if is_faster and float(other[column] or 0) < float(row[column] or 0):
            return True
    return False


def analytic(rows: Sequence[Record]) -> tuple[Record, ...]:
    """What one would choose from without measuring, the fewest MACs first: the rows of which none
    has both fewer MACs and fewer parameters."""
    costed = [row for row in rows if row["macs"] and row["params"] is not None]
    costed.sort(key=lambda row: (float(row["macs"] or 0), float(row["params"] or 0)))
    found: list[Record] = []
    for row in costed:
        if not found or float(row["params"] or 0) < float(found[-1]["params"] or 0):
            found.append(row)
    return tuple(found)
