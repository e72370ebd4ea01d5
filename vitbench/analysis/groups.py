"""Rows that are looked at together: those that differ in a few columns only. Pure."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from vitbench.analysis.compare import IDENTITY, MACHINE
from vitbench.analysis.order import Rounds, Spread
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record

# What tells a mechanism or a backbone from others at one setting.
SUBJECT = ("attention", "backbone", "settings", "impl")
subject_key = operator.itemgetter(*SUBJECT)
SIZE = ("image_height", "image_width", "grid_height", "grid_width")
# Grades from which an order is read where there are such rows, and where there are none.
_GOOD, _POOR = "AB", "C"


def groups(records: Sequence[Record], free: Sequence[str]) -> list[list[Record]]:
    """The rows that differ in the `free` columns only, in the order of their first rows. Those of
    models that do different things are apart."""
    cells = operator.itemgetter(*(n for n in (*IDENTITY, *MACHINE) if n not in free))
    found: dict[object, list[Record]] = {}
    for record in records:
        found.setdefault((head_of(record), cells(record)), []).append(record)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Setting:
    """Rows that differ in a few columns only and from which an order is read.

    rounds  of each of the rows
    spread  of all of them
    """

    rows: Sequence[Record]
    rounds: Rounds
    spread: Spread


def settings(records: Sequence[Record], free: Sequence[str]) -> list[Setting]:
    """`groups`, of each the rows that are trusted."""
    found = []
    for rows in map(trusted, groups(records, free)):
        rounds = Rounds.of(rows)
        found.append(Setting(rows, rounds, Spread.of(rounds)))
    return found


def trusted(records: Sequence[Record]) -> list[Record]:
    """The measured rows from which an order is read: those of trust A and B, those of C where there
    are none, and never one of D or of unknown trust."""
    measured = [row for row in records if row["status"] == MEASURED and row["trust"]]
    good = [row for row in measured if str(row["trust"]) in _GOOD]
    return good or [row for row in measured if row["trust"] == _POOR]


def head_of(record: Record) -> str:
    """The head of a backbone, by its settings; "" for its own, and for layers."""
    if not record["backbone"]:
        return ""
    words = (word.partition("=") for word in str(record["settings"] or "").split())
    return next((value for name, _, value in words if name == "head"), "")


def latency_s(row: Record) -> float:
    """Of a measured row."""
    return float(row["latency_s"] or 0)
