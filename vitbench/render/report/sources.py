"""The runs of a report: rows, samples, and what they ran on. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitbench.analysis.tuning import Outcome, outcomes
from vitbench.cases.tuning import Tuning
from vitbench.results import journal, rows, samples, spectra
from vitbench.results.folder import JOURNAL, RECORDS, read_environment_file
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
    tuned    how its contests ended, where it looked for the best setting
    tuning   how it looked
    """

    name: str
    records: Sequence[Record]
    file: Mapping[str, Any]
    samples: Mapping[str, Rounds]
    spectra: Sequence[SpectraOf] = ()
    tuned: Sequence[Outcome] = ()
    tuning: Tuning | None = None

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
    return [_read(name, run) for name, run in zip(_names(runs), runs, strict=True)]


def _read(name: str, run: Path) -> Source:
    file, records = read_environment_file(run), rows.read(run)
    read = Source(name, records, file, samples.read(run), spectra.read(run))
    folder = run if run.is_dir() else run.parent
    if not (read.plan.get("tuning") and (folder / JOURNAL).is_file()):
        return read
    done = journal.read(folder)
    tuning = done.plan.tuning
    assert tuning is not None
    return replace(read, tuned=outcomes(records, done.medians(), tuning), tuning=tuning)


def _names(runs: Sequence[Path]) -> list[str]:
    """The names of the folders or files; with as many of their parents as tell them apart."""
    paths = [run.resolve() for run in runs]
    paths = [path.parent if path.name == RECORDS else path for path in paths]
    for count in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len({*names}) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, start=1)]
