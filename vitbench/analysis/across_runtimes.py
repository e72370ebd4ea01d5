"""Runtimes against each other: the fastest of each case, and pairs whose order changes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from vitbench import runtimes
from vitbench.analysis.compare import IDENTITY, MACHINE
from vitbench.analysis.order import Rounds, Spread
from vitbench.results.outcome import MEASURED, UNSUPPORTED
from vitbench.results.record import Record

# Grades from which an order is read: on a busy machine the ranking turns round.
TRUSTED = "AB"
# What is compared between runtimes; the rest of a case's identity is the setting.
_SUBJECT = ("attention", "backbone", "settings", "impl")
# What every dtype's gain is over: the default runtime in this one.
BASE_DTYPE = "float32"
_SETTING = tuple(name for name in (*IDENTITY, *MACHINE) if name not in ("runtime", *_SUBJECT))
_WITHOUT_DTYPE = tuple(name for name in _SETTING if name != "dtype")

Rows = Mapping[str, Record]


@dataclass(frozen=True, slots=True)
class Comparison:
    """The cases of one setting that several runtimes were asked for.

    runtimes    those that measured something, the default first
    subjects    for each mechanism or backbone its rows by runtime, measured or not
    base_dtype  of the rows of the default runtime, where that has not the setting's
    """

    runtimes: tuple[str, ...]
    subjects: tuple[Rows, ...]
    base_dtype: str = ""

    @property
    def rows(self) -> list[Record]:
        """All of them."""
        return [row for rows in self.subjects for row in rows.values()]

    @property
    def own_row(self) -> Record:
        """One in the dtype of the setting."""
        return next(row for row in self.rows if row["dtype"] != self.base_dtype)


@dataclass(frozen=True, slots=True)
class Fastest:
    """The fastest row of a subject, and those that noise does not tell from it.

    rows     the fastest first
    speedup  over the default runtime; None where that has no trusted row
    """

    rows: tuple[Record, ...]
    speedup: float | None


@dataclass(frozen=True, slots=True)
class Gain:
    """What a subject gains over the default runtime in BASE_DTYPE.

    base  its row there
    best  of each dtype the fastest trusted row, of whatever runtime
    """

    base: Record
    best: Mapping[str, Record]

    def speedup(self, dtype: str) -> float:
        """Over the base, in the fastest runtime of that dtype."""
        return latency_s(self.base) / latency_s(self.best[dtype])


@dataclass(frozen=True, slots=True)
class Swap:
    """Two subjects whose order differs between two runtimes, beyond the noise of all four rows.

    one, other     their rows by runtime: `one` is the faster in `ahead`, the slower in `behind`
    gap            by what factor the slower one takes longer at least, in the runtime where that is
                   less; above 1
    """

    one: Rows
    other: Rows
    ahead: str
    behind: str
    gap: float


def gains(records: Iterable[Record]) -> list[list[Gain]]:
    """Of each setting the subjects whose base may be trusted, in the order of the rows."""
    found: dict[object, dict[object, list[Record]]] = {}
    for row in filter(is_trusted, records):
        setting, subject = (_values(row, names) for names in (_WITHOUT_DTYPE, _SUBJECT))
        found.setdefault(setting, {}).setdefault(subject, []).append(row)
    settings = [[*filter(None, map(_gain, subjects.values()))] for subjects in found.values()]
    return [own for own in settings if own]


def _gain(rows: Iterable[Record]) -> Gain | None:
    ordered = sorted(rows, key=latency_s, reverse=True)
    base = [row for row in ordered if _is_base(row)]
    return Gain(base[0], {str(row["dtype"]): row for row in ordered}) if base else None


def _is_base(row: Record) -> bool:
    return row["runtime"] == runtimes.DEFAULT and row["dtype"] == BASE_DTYPE


def comparisons(records: Iterable[Record]) -> list[Comparison]:
    """One for each setting in which two runtimes or more measured something. Where the default
    runtime has not the dtype of a setting, as int8, its rows in BASE_DTYPE stand there.
    """
    settings: dict[object, dict[object, dict[str, Record]]] = {}
    bases: dict[object, Record] = {}
    for record in records:
        setting, subject = (_values(record, names) for names in (_SETTING, _SUBJECT))
        rows = settings.setdefault(setting, {}).setdefault(subject, {})
        rows[str(record["runtime"])] = record
        if _is_base(record):
            bases[_without_dtype(record)] = record
    compared = (_comparison(subjects, bases) for subjects in settings.values())
    return [one for one in compared if len(one.runtimes) > 1]


def _comparison(
    subjects: Mapping[object, dict[str, Record]], bases: Mapping[object, Record]
) -> Comparison:
    """Of one setting, which has at least one row of each subject."""
    base_dtype = ""
    own = [rows[runtimes.DEFAULT] for rows in subjects.values() if runtimes.DEFAULT in rows]
    if all(row["status"] == UNSUPPORTED for row in own):
        for rows in subjects.values():
            base = bases.get(_without_dtype(next(iter(rows.values()))))
            if base is not None:
                rows.pop(runtimes.DEFAULT, None)
                rows[runtimes.DEFAULT], base_dtype = base, BASE_DTYPE
    cells = [row for rows in subjects.values() for row in rows.values()]
    measured = {str(row["runtime"]) for row in cells if row["status"] == MEASURED}
    ordered = dict.fromkeys((*runtimes.names(), *sorted(measured)))
    names = tuple(name for name in ordered if name in measured)
    return Comparison(names, tuple(subjects.values()), base_dtype)


def _without_dtype(row: Record) -> tuple[str, ...]:
    """Its setting and subject, apart from the dtype."""
    return _values(row, (*_WITHOUT_DTYPE, *_SUBJECT))


def _values(row: Record, names: Iterable[str]) -> tuple[str, ...]:
    """Of these columns."""
    return tuple(str(row[name] or "") for name in names)


def is_trusted(row: Record) -> bool:
    """Whether an order may be read from it."""
    return row["status"] == MEASURED and bool(row["trust"]) and str(row["trust"]) in TRUSTED


def latency_s(row: Record) -> float:
    """Of a measured row."""
    return float(str(row["latency_s"]))


def spread_of(comparison: Comparison) -> Spread:
    """What its processes differ by, where they were trusted."""
    return Spread.of(Rounds.of([row for row in comparison.rows if is_trusted(row)]))


def fastest(comparison: Comparison) -> list[Fastest]:
    """For each subject of which two runtimes or more have a trusted row."""
    found, spread = [], spread_of(comparison)
    for rows in map(_trusted, comparison.subjects):
        if len(rows) < 2:
            continue
        best, *others = sorted(rows.values(), key=latency_s)
        level = [row for row in others if spread.gap(best, row) <= 1]
        base = rows.get(runtimes.DEFAULT)
        speedup = None if base is None else latency_s(base) / latency_s(best)
        found.append(Fastest((best, *level), speedup))
    return found


def swaps(comparison: Comparison) -> list[Swap]:
    """The pairs whose order changes, each once with the runtimes that show it best; the clearest
    first."""
    found, names, spread = [], comparison.runtimes, spread_of(comparison)
    subjects = [_trusted(rows) for rows in comparison.subjects]
    flat = Rounds.of([rows.get(name) for rows in subjects for name in names])
    rounds = flat[np.arange(len(subjects) * len(names)).reshape(len(subjects), len(names))]
    for i, one in enumerate(subjects):
        own, others = rounds[i], rounds[i + 1 :]
        ahead, behind = spread.gaps(own, others), spread.gaps(others, own)
        # NaN, where one of the two was not measured, is passed over.
        gaps = np.minimum(np.fmax.reduce(ahead, axis=1), np.fmax.reduce(behind, axis=1))
        for j in np.flatnonzero(gaps > 1).tolist():
            first, last = (names[int(np.nanargmax(side[j]))] for side in (ahead, behind))
            found.append(Swap(one, subjects[i + 1 + j], first, last, float(gaps[j])))
    return sorted(found, key=lambda swap: -swap.gap)


def _trusted(rows: Rows) -> Rows:
    return {name: row for name, row in rows.items() if is_trusted(row)}
