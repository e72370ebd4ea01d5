"""How large a resolution or batch fits into an amount of memory. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vitbench.analysis.crossover import side
from vitbench.analysis.groups import SIZE, groups
from vitbench.results.outcome import COUNTED, MEASURED
from vitbench.results.record import Record

Grown = Literal["resolution", "batch_size"]
OUT_OF_MEMORY = "out_of_memory"


@dataclass(frozen=True, slots=True)
class Capacity:
    """What fits of one subject, while all else stays the same.

    axis          what grows
    memory_bytes  into which it has to fit
    fits          the largest measured row that does; None: none does
    exceeds       the smallest measured row that does not; None: all that were measured fit
    """

    axis: Grown
    memory_bytes: int
    fits: Record | None
    exceeds: Record | None


def capacities(records: Sequence[Record], memory_bytes: int) -> list[Capacity]:
    """One for each subject and setting whose peak memory is known at two sizes or more. A row whose
    memory ran out does not fit, if all that is known of it is that."""
    found = []
    for axis, (free, size) in _AXES.items():
        for rows in groups(records, free):
            known = [row for row in rows if _is_known(row)]
            if len({size(row) for row in known}) > 1:
                found.append(_capacity(sorted(known, key=size), axis, memory_bytes))
    return found


def _capacity(ordered: Sequence[Record], axis: Grown, memory_bytes: int) -> Capacity:
    fitting = [row for row in ordered if _fits(row, memory_bytes)]
    size = _AXES[axis][1]
    exceeding = [
        row
        for row in ordered
        if not _fits(row, memory_bytes) and (not fitting or size(row) > size(fitting[-1]))
    ]
    return Capacity(
        axis, memory_bytes, fitting[-1] if fitting else None, exceeding[0] if exceeding else None
    )


def _is_known(record: Record) -> bool:
    if record["status"] == OUT_OF_MEMORY:
        return True
    return record["status"] in (MEASURED, COUNTED) and record["peak_memory_bytes"] is not None


def _fits(record: Record, memory_bytes: int) -> bool:
    if record["status"] == OUT_OF_MEMORY:
        return False
    return int(record["peak_memory_bytes"] or 0) <= memory_bytes


def _batch(record: Record) -> float:
    return float(record["batch_size"] or 0)


_AXES: Mapping[Grown, tuple[Sequence[str], Callable[[Record], float]]] = {
    "resolution": (SIZE, side),
    "batch_size": (("batch_size",), _batch),
}
