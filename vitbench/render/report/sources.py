"""The runs of a report: rows, samples, and what they ran on. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbench.results import rows, samples, spectra
from vitbench.results.folder import RECORDS, read_environment_file
from vitbench.results.record import Record
from vitbench.results.samples import Rounds
from vitbench.results.spectra import SpectraOf


@dataclass(frozen=True, slots=True)
class Source:
    """A run as its files tell it.

    name     what it is called among the runs of the report
    file     environment.json: the environment, the ceilings and the plan; {} where there is none
    samples  by the id of the case
    spectra  that `vitbench spectrum` wrote into its folder
    """

    name: str
    records: Sequence[Record]
    file: Mapping[str, Any]
    samples: Mapping[str, Rounds]
    spectra: Sequence[SpectraOf] = ()

    @property
    def devices(self) -> str:
        """The names of the devices of its rows."""
        names = {str(record["device_name"] or "") for record in self.records} - {""}
        return ", ".join(sorted(names)) or "unknown device"

    @property
    def environment(self) -> Mapping[str, Any]:
        """What it ran on; {} where that is unknown."""
        return self.file.get("environment") or {}

    @property
    def plan(self) -> Mapping[str, Any]:
        """How it measured; {} where that is unknown."""
        return self.file.get("plan") or {}


def read(runs: Sequence[Path]) -> list[Source]:
    """The runs of a report. Raises BadInput."""
    return [
        Source(
            name, rows.read(run), read_environment_file(run), samples.read(run), spectra.read(run)
        )
        for name, run in zip(_names(runs), runs, strict=True)
    ]


def _names(runs: Sequence[Path]) -> list[str]:
    """The names of the folders or files; with as many of their parents as tell them apart."""
    paths = [run.resolve() for run in runs]
    paths = [path.parent if path.name == RECORDS else path for path in paths]
    for count in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len({*names}) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]
