"""Pareto fronts: of what nothing else is both faster and cheaper. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vitbench.analysis.accuracy import published_top1
from vitbench.analysis.groups import SUBJECT, groups, latency_s, trusted
from vitbench.analysis.order import Rounds, Spread
from vitbench.results.record import Record

Cost = Literal["peak_memory_bytes", "macs", "top1"]


@dataclass(frozen=True, slots=True)
class Dominated:
    """A row that another one beats: faster beyond noise, and no worse in the other respect."""

    record: Record
    by: Record


@dataclass(frozen=True, slots=True)
class Front:
    """The rows of one device, runtime, size, dtype and batch, of which nothing is better.

    against    what throughput is weighed against: peak memory (bytes), MACs, or published top-1 (%)
    points     the front, the fastest first
    dominated  the others
    values     what each row has of `against`, by the row's case
    """

    against: Cost
    points: tuple[Record, ...]
    dominated: tuple[Dominated, ...]
    values: Mapping[str, float]


def fronts(records: Sequence[Record]) -> list[Front]:
    """A front for each setting in which two subjects or more have what is weighed."""
    found = []
    for rows in groups(records, SUBJECT):
        measured = trusted(rows)
        spread = Spread.of(measured)
        for against, value_of in _VALUES.items():
            values = {str(row["case"]): value_of(row) for row in measured}
            known = {case: value for case, value in values.items() if value is not None}
            own = [row for row in measured if str(row["case"]) in known]
            if len(own) > 1:
                found.append(_front(own, spread, against, known))
    return found


def _front(
    rows: Sequence[Record], spread: Spread, against: Cost, values: Mapping[str, float]
) -> Front:
    """By rising cost: a row can only be beaten by one that costs no more, and the fastest of these
    beats it if any does."""
    sign = -1 if against == "top1" else 1  # more of it is better

    def cost(row: Record) -> float:
        return sign * values[str(row["case"])]

    best: tuple[float, Record] | None = None
    points, dominated = [], []
    for _, mean, _, row in sorted(
        (cost(row), Rounds.of(row).mean, index, row) for index, row in enumerate(rows)
    ):
        if best is not None and spread.gap(best[1], row, len(rows)) > 1:
            dominated.append(Dominated(row, best[1]))
            continue
        points.append(row)
        if best is None or mean < best[0]:
            best = (mean, row)
    points.sort(key=latency_s)
    return Front(against, tuple(points), tuple(dominated), values)


def _number(name: str) -> Callable[[Record], float | None]:
    def read(record: Record) -> float | None:
        value = record[name]
        return None if value is None else float(value)

    return read


def _top1(record: Record) -> float | None:
    known = published_top1(record) if record["backbone"] else None
    return None if known is None else known.percent


_VALUES: Mapping[Cost, Callable[[Record], float | None]] = {
    "peak_memory_bytes": _number("peak_memory_bytes"),
    "macs": _number("macs"),
    "top1": _top1,
}
