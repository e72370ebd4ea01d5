"""Pareto fronts: of what nothing else is both faster and cheaper. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vitbench.analysis.accuracy import published_top1
from vitbench.analysis.groups import Setting, latency_s
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


def fronts(settings: Iterable[Setting]) -> list[Front]:
    """A front for each of these settings of several subjects, in which two or more have what is
    weighed."""
    found = []
    for setting in settings:
        for against, value_of in _VALUES.items():
            values = [value_of(row) for row in setting.rows]
            if sum(value is not None for value in values) > 1:
                found.append(_front(setting, against, values))
    return found


def _front(setting: Setting, against: Cost, values: Sequence[float | None]) -> Front:
    """By rising cost: a row can only be beaten by one that costs no more, and the fastest of these
    beats it if any does."""
    sign = -1 if against == "top1" else 1  # more of it is better
    costs = sign * np.array(values, float)  # NaN where it is not known
    rows, rounds = setting.rows, setting.rounds
    order = np.lexsort((rounds.mean, costs))[: np.count_nonzero(~np.isnan(costs))]
    means = rounds.mean[order]
    is_best = means <= np.minimum.accumulate(means)
    best_of = order[np.maximum.accumulate(np.where(is_best, np.arange(len(order)), 0))]
    is_beaten = setting.spread.gaps(rounds[best_of], rounds[order], len(order)) > 1
    ranked = list(zip(order.tolist(), best_of.tolist(), is_beaten.tolist(), strict=True))
    return Front(
        against,
        points=tuple(sorted((rows[i] for i, _, beaten in ranked if not beaten), key=latency_s)),
        dominated=tuple(Dominated(rows[i], rows[best]) for i, best, beaten in ranked if beaten),
        values={str(rows[i]["case"]): sign * float(costs[i]) for i, _, _ in ranked},
    )


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
