"""Formats that other tools read. A file here without an underscore is one format.

It has FORMAT, which is known without the package that it may need, and `render`, which gives the
contents of its files.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from vitbench import listed
from vitbench.cases.row import name_of
from vitbench.errors import BadInput, nearest, writing
from vitbench.render import text
from vitbench.results import rows, samples
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record
from vitbench.results.replacing import replace_bytes
from vitbench.results.samples import Rounds

EXTRA = "export"
# As many characters as every tool takes.
_LONGEST_NAME = 990


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """What is known of a format.

    name            the value of --format
    summary         one line for a list
    suffix          of its files
    is_text         it can be printed, where it is one file
    shows_failures  rows without a measurement have a place in it
    packages        that it imports
    """

    name: str
    summary: str
    suffix: str
    is_text: bool = True
    shows_failures: bool = True
    packages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Results:
    """What is exported: the rows of a run folder or a CSV file of records."""

    path: Path
    records: Sequence[Record]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises BadInput."""
        return cls(path, rows.read(path))

    def measured(self) -> list[Record]:
        """The rows that hold a measurement."""
        return [record for record in self.records if record["status"] == MEASURED]

    def failed(self) -> list[Record]:
        """The other rows."""
        return [record for record in self.records if record["status"] != MEASURED]

    def names(self) -> Mapping[str, str]:
        """What each case is called, by its id: one line, and no two alike."""
        names = {str(record["case"]): text.visible(name_of(record)) for record in self.records}
        counts: dict[str, int] = {}
        for name in names.values():
            counts[name] = counts.get(name, 0) + 1
        return {
            case: name
            if counts[name] == 1 and len(name) <= _LONGEST_NAME
            else f"{name[:_LONGEST_NAME]} {case}"
            for case, name in names.items()
        }

    def samples(self) -> Mapping[str, Rounds]:
        """Of each case that has some: round by round, seconds of one call. Raises BadInput."""
        return samples.read(self.path)


class Exporting(Protocol):
    """A format's file."""

    FORMAT: Format

    def render(self, results: Results) -> Mapping[str, bytes]:
        """The contents of its files, by what their names have before the suffix: "" for the only
        one. Raises BadInput."""


@functools.cache
def _formats() -> Mapping[str, Exporting]:
    modules = [listed.load(__name__, file, needs="FORMAT") for file in listed.names(__path__)]
    return {module.FORMAT.name: cast("Exporting", module) for module in modules}


def names() -> tuple[str, ...]:
    """The formats."""
    return tuple(_formats())


def load(name: str) -> Exporting:
    """The format of that name. Raises BadInput."""
    if name not in names():
        raise BadInput(f"no format is called {name!r}; {nearest(name, names())}")
    return _formats()[name]


def render(results: Results, name: str) -> Mapping[str, bytes]:
    """The contents of the files of a format. Raises BadInput."""
    chosen = load(name)
    absent = [p for p in chosen.FORMAT.packages if importlib.util.find_spec(p) is None]
    if absent:
        raise BadInput(
            f"--format {name} needs {', '.join(absent)}: pip install 'vitbench[{EXTRA}]'"
        )
    if not results.records:
        raise BadInput(f"{results.path} holds no rows: there is nothing to export")
    return chosen.render(results)


def write(files: Mapping[str, bytes], out: Path) -> list[Path]:
    """Writes them as `out`, or as `out` with a word before its suffix; each as a whole. Raises
    BadInput."""
    paths = {out.with_name(f"{out.stem}{part}{out.suffix}"): data for part, data in files.items()}
    for path, data in paths.items():
        with writing(path, BadInput):
            replace_bytes(path, data)
    return list(paths)
