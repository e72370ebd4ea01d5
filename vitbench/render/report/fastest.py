"""The fastest of each setting, resolution and runtime: what stands on top of the page."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vitbench import runtimes
from vitbench.analysis.across_runtimes import is_trusted
from vitbench.analysis.groups import head_of, latency_s, trusted
from vitbench.analysis.order import Rounds, Spread
from vitbench.cases.axes import AXES, text_of
from vitbench.cases.row import CONDITIONS
from vitbench.render import labels, units
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record, subject_of

# Names of a cell, and of a sentence, that are told.
_MOST = 4


@dataclass(frozen=True, slots=True)
class Cell:
    """The fastest of one resolution in one runtime.

    name   empty where no row can be trusted
    level  those that nothing tells from it, and that are told
    rest   how many more there are
    """

    name: str
    speed: str
    level: tuple[str, ...]
    rest: int

    @property
    def close(self) -> str:
        """The others in words; empty where the fastest is alone."""
        return ", ".join(self.level) + (f" and {self.rest} more" if self.rest else "")


@dataclass(frozen=True, slots=True)
class Matrix:
    """The cells of one setting: a row for each resolution, a cell for each runtime."""

    title: str
    runtimes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]

    def sentences(self) -> Iterator[str]:
        """Who leads where, and where that is certain: one for the runtimes that agree."""
        agreeing: dict[str, list[str]] = {}
        for index, name in enumerate(self.runtimes):
            cells = [(size, own[index]) for size, own in self.rows]
            known = [(size, cell) for size, cell in cells if cell is not None and cell.name]
            agreeing.setdefault(_told(known), []).append(name)
        for told, names in agreeing.items():
            yield f"In {' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}, {told}."


def _told(cells: Sequence[tuple[str, Cell]]) -> str:
    """Who leads at which resolutions, and where nothing comes close."""
    if not cells:
        return "no row can be trusted"
    clear = [size for size, cell in cells if not cell.close]
    verb = "is the fastest" if len(clear) == len(cells) else "leads"
    groups = itertools.groupby(cells, key=lambda pair: pair[1].name)
    ranges = [(name, _range([size for size, _ in group])) for name, group in groups]
    (first, where), *others = ranges
    told = ", ".join([f"{first} {verb} {where}", *(f"{name} {where}" for name, where in others)])
    if len(clear) == len(cells):
        return told
    if not clear:
        return f"{told}; others come too close to be sure"
    return f"{told}; this is certain at {', '.join(clear)} px, elsewhere others come too close"


def _range(sizes: Sequence[str]) -> str:
    return f"at {sizes[0]} px" if len(sizes) == 1 else f"from {sizes[0]} to {sizes[-1]} px"


def matrices(records: Sequence[Record]) -> tuple[str, list[Matrix]]:
    """One for each setting in which at least two subjects were measured; and what all of these
    share, in words, where there are several."""
    own = labels.own_settings(records)
    settings: dict[tuple[str, ...], list[tuple[Record, str]]] = {}
    for record, words in zip(records, own, strict=True):
        if record["status"] == MEASURED:
            name = f"{subject_of(record)} {words}".strip()
            settings.setdefault(_setting(record), []).append((record, name))
    compared = {key: rows for key, rows in settings.items() if len({name for _, name in rows}) > 1}
    shared, titles = _titles(list(compared))
    own_rows = zip(titles, compared.values(), strict=True)
    return shared, [_matrix(title, rows) for title, rows in own_rows]


def _setting(record: Record) -> tuple[str, ...]:
    """What two rows share whose times compare, apart from resolution and runtime, in words."""
    kind = "attention layers" if record["attention"] else "whole models"
    head = head_of(record)
    words = [kind, head and f"head {head}", str(record["device_name"] or record["device"])]
    for name in CONDITIONS:
        text = text_of(record[name])
        words.append(AXES[name].label(text) if text and text != "false" else "")
    return (*words, f"torch {record['torch']}")


def _titles(settings: Sequence[tuple[str, ...]]) -> tuple[str, list[str]]:
    """The words that several settings share, and for each those in which it differs; all of them
    where there is one."""
    columns = list(zip(*settings, strict=True))
    differing = [len({*column}) > 1 or len(settings) == 1 for column in columns]
    titles = [", ".join(filter(None, itertools.compress(own, differing))) for own in settings]
    shared = [column[0] for column, differs in zip(columns, differing, strict=True) if not differs]
    return ", ".join(filter(None, shared)), titles


def _matrix(title: str, rows: Sequence[tuple[Record, str]]) -> Matrix:
    spread = Spread.of(Rounds.of([record for record, _ in rows]))
    measured = {str(record["runtime"]) for record, _ in rows}
    ordered = dict.fromkeys((*runtimes.names(), *sorted(measured)))
    names = tuple(name for name in ordered if name in measured)
    sizes: dict[str, dict[str, list[tuple[Record, str]]]] = {}
    for record, name in sorted(rows, key=lambda pair: _area(pair[0])):
        own = sizes.setdefault(labels.resolution(record), {})
        own.setdefault(str(record["runtime"]), []).append((record, name))
    return Matrix(
        title,
        names,
        tuple(
            (size, tuple(_cell(own[name], spread) if name in own else None for name in names))
            for size, own in sizes.items()
        ),
    )


def _area(record: Record) -> int:
    return int(str(record["image_height"])) * int(str(record["image_width"]))


def _cell(rows: Sequence[tuple[Record, str]], spread: Spread) -> Cell:
    """The fastest that can be trusted, and all that are not known to be slower."""
    leading = trusted([record for record, _ in rows])
    if not leading:
        return Cell("", "", (), 0)
    best = min(leading, key=latency_s)
    name = next(name for record, name in rows if record is best)
    others = sorted((pair for pair in rows if pair[1] != name), key=lambda pair: latency_s(pair[0]))
    near = [pair for pair in others if spread.gap(best, pair[0], len(others)) <= 1]
    close = list(dict.fromkeys(other + _doubt(row, best, spread) for row, other in near))
    speed = f"{units.significant(float(best['throughput_img_s'] or 0))} images/s"
    return Cell(name, speed, tuple(close[:_MOST]), max(0, len(close) - _MOST))


def _doubt(record: Record, best: Record, spread: Spread) -> str:
    """The grade, where no order should be read from it; and whether it would lead otherwise."""
    if is_trusted(record):
        return ""
    faster = "faster, but of " if spread.gap(record, best) > 1 else ""
    return f" ({faster}trust {record['trust']})"
