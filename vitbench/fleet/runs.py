"""Runs of a fleet: begun in new folders or continued, one that all nodes share or one a kind."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from vitbench.cases.plan import Plan
from vitbench.engine.runner import OnProgress
from vitbench.errors import BadInput
from vitbench.fleet.head import Cluster, Head, OnNote, Sweep
from vitbench.results import journal as journals
from vitbench.results.folder import JOURNAL, discard
from vitbench.results.journal import Run

# Ways to use the nodes: all of them measure parts of one run, or each kind of them has a run.
SHARE, EACH = "share", "each"


def folders_of(folder: Path, spread: str, cluster: Cluster) -> dict[str | None, Path]:
    """The folder of each run, by the kind of nodes that measure it. Raises BadInput."""
    if spread == SHARE:
        return {None: folder}
    kinds = sorted({offer.kind for offer in cluster.offers() if not offer.fault})
    return {kind: folder / kind for kind in kinds}


def measure(
    plan: Plan,
    folder: Path,
    cluster: Cluster,
    spread: str = SHARE,
    on_progress: OnProgress | None = None,
    on_note: OnNote = lambda note: None,
) -> dict[Path, Run]:
    """Carries out a plan on a cluster into a new run folder, or one for each kind of nodes below
    it. Raises BadInput, StorageFull."""
    folders = folders_of(folder, spread, cluster)
    with contextlib.ExitStack() as opened:
        sweeps = []
        for kind, place in folders.items():
            journal = opened.enter_context(journals.create(place, plan))
            sweeps.append(Sweep(place, Run(plan), journal, kind))
        try:
            Head(cluster, sweeps, on_progress, on_note).carry_out()
        finally:
            # Where no node could begin there is nothing to continue.
            for sweep in sweeps:
                if not sweep.run.environment:
                    discard(sweep.folder, JOURNAL)
    return {sweep.folder: sweep.run for sweep in sweeps}


def resume(
    folder: Path,
    cluster: Cluster,
    on_progress: OnProgress | None = None,
    on_note: OnNote = lambda note: None,
) -> dict[Path, Run]:
    """Continues runs that were cut off, on whatever nodes there are now. Raises BadInput,
    StorageFull."""
    with contextlib.ExitStack() as opened:
        sweeps = []
        for kind, place in begun(folder).items():
            plan_of(place)
            journal = opened.enter_context(journals.Journal(place / JOURNAL))
            sweeps.append(Sweep(place, journals.read(place), journal, kind))
        Head(cluster, sweeps, on_progress, on_note).carry_out()
    return {sweep.folder: sweep.run for sweep in sweeps}


def begun(folder: Path) -> Mapping[str | None, Path]:
    """The folder of each run that was begun, by the kind of nodes that measure it. Raises
    BadInput."""
    if (folder / JOURNAL).exists():
        return {None: folder}
    found: dict[str | None, Path] = {}
    for path in sorted(folder.glob(f"*/{JOURNAL}")):
        found[path.parent.name] = path.parent
    if not found:
        raise BadInput(f"{folder} holds no run: {JOURNAL}: No such file or directory")
    return found


def plan_of(folder: Path) -> Plan:
    """The plan of a fleet's run that was begun. Raises BadInput for another run."""
    run = journals.read(folder)
    if run.outcomes and not run.nodes:
        raise BadInput(f"{folder} is measured by one machine: continue it there, without --fleet")
    if run.plan.tuning is not None:
        raise BadInput(f"{folder} tunes, which one machine does: `vitbench tune --resume {folder}`")
    if run.plan.shard is not None:
        raise BadInput(f"{folder} is a shard: continue it on its machine, without --fleet")
    return run.plan
