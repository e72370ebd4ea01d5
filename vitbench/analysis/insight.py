"""What the rows of runs say, beyond the rows themselves: all findings at once. Pure, no torch.

Each kind of finding has a file of its own. Their sentences are in `vitbench.render.insights`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitbench.analysis.bound import Bound, bounds
from vitbench.analysis.capacity import Capacity, capacities
from vitbench.analysis.changes import Change, changes
from vitbench.analysis.crossover import Crossover, crossovers
from vitbench.analysis.flops_gap import FlopsGap, gaps
from vitbench.analysis.groups import SUBJECT, settings
from vitbench.analysis.pareto import Front, fronts
from vitbench.analysis.scaling import Exponent, exponents
from vitbench.results.outcome import Ceilings, ceilings_from_dict
from vitbench.results.record import Record


@dataclass(frozen=True, slots=True)
class Insights:
    """The findings of each kind; empty where there are none.

    fronts      Pareto fronts of throughput against peak memory, MACs and published top-1
    crossovers  of pairs of mechanisms along the resolution
    exponents   of the latency in tokens
    gaps        MACs against latency
    bounds      what bounds each case
    capacities  the largest resolution and batch that fit the device's memory
    changes     between runtimes, dtypes and devices
    """

    fronts: tuple[Front, ...]
    crossovers: tuple[Crossover, ...]
    exponents: tuple[Exponent, ...]
    gaps: tuple[FlopsGap, ...]
    bounds: tuple[Bound, ...]
    capacities: tuple[Capacity, ...]
    changes: tuple[Change, ...]


def insights(
    records: Sequence[Record],
    environment: Mapping[str, Any] | None = None,
    memory_bytes: int | None = None,
) -> Insights:
    """All findings of these rows, of one run or of several.

    environment   what environment.json holds, as `results.folder.read_environment_file` reads it:
                  the ceilings that tell what bounds a case. None, or without them: unknown
    memory_bytes  into which cases have to fit; by default the memory that environment.json names
    """
    environment = environment or {}
    fitting = memory_bytes if memory_bytes is not None else _memory_bytes(environment)
    of_subjects = settings(records, SUBJECT)
    return Insights(
        fronts=tuple(fronts(of_subjects)),
        crossovers=tuple(crossovers(records)),
        exponents=tuple(exponents(records)),
        gaps=tuple(gaps(of_subjects)),
        bounds=tuple(bounds(records, _ceilings(environment))),
        capacities=() if fitting is None else tuple(capacities(records, fitting)),
        changes=tuple(changes(records)),
    )


def _ceilings(environment: Mapping[str, Any]) -> Ceilings | None:
    data = environment.get("ceilings")
    return None if data is None else ceilings_from_dict(data)


def _memory_bytes(environment: Mapping[str, Any]) -> int | None:
    """Of the device: a GPU's own, else the host's."""
    machine = environment.get("environment") or {}
    found = (machine.get("gpu") or {}).get("memory_bytes") or machine.get("memory_bytes")
    return None if found is None else int(found)
