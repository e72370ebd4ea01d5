"""The samples of a run, from its samples.csv or its journal. No pandas, no torch."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping
from pathlib import Path

from vitbench.errors import BadInput
from vitbench.results import journal
from vitbench.results.folder import JOURNAL, SAMPLES
from vitbench.results.outcome import Measured

# Of a case: round by round, seconds of one call, in the order in which they were taken.
Rounds = list[list[float]]


def read(run: Path) -> Mapping[str, Rounds]:
    """The samples of each case by its id; none where there are only records. Raises BadInput."""
    folder = run if os.path.isdir(run) else run.parent
    if os.path.isfile(folder / SAMPLES):
        return _of_csv(folder / SAMPLES)
    return _of_journal(folder) if os.path.isfile(folder / JOURNAL) else {}


def _of_csv(path: Path) -> Mapping[str, Rounds]:
    samples: dict[str, dict[str, list[float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                seconds = float(row["latency_s"])
                if not 0 < seconds < math.inf:
                    raise ValueError(f"expected a time over 0 s, got {row['latency_s']}")
                samples.setdefault(row["case"], {}).setdefault(row["round"], []).append(seconds)
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise BadInput(f"{path} is not a CSV file of samples: {error}") from None
    return {case: list(rounds.values()) for case, rounds in samples.items()}


def _of_journal(folder: Path) -> Mapping[str, Rounds]:
    run = journal.read(folder)
    return {
        case.id: [list(o.samples_s) for o in run.outcomes_of(case) if isinstance(o, Measured)]
        for case in run.plan.cases
    }
