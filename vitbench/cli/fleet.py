"""`vitbench run --fleet`: a plan on the nodes of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vitbench import runtimes
from vitbench.cli import run as running
from vitbench.cli import terminal
from vitbench.cli.options import Machine

if TYPE_CHECKING:
    from vitbench.cases.plan import Plan
    from vitbench.fleet.head import Offer
    from vitbench.render.progress import ProgressBar
    from vitbench.results.journal import Run


def run(address: str, spread: str, planned: Callable[..., Plan], machine: Machine) -> int:
    """Plans, and measures on a cluster, or prints which node would measure how much."""
    from vitbench.cases import plan as plans
    from vitbench.fleet import cluster, runs, versions
    from vitbench.results import journal
    from vitbench.results.folder import new_folder

    if machine.out is not None and not machine.dry_run:
        journal.check_new(machine.out)  # to connect takes a while
    packages = versions.packages_of(runtimes.names())
    with cluster.connected(address, machine.device, packages) as fleet:
        plan = plans.with_control(planned(device=fleet.device, resolve=lambda *_: fleet.device))
        offers = fleet.survey()
        if machine.dry_run:
            _print_dealing(plan, offers, spread)
            return 0
        folder = machine.out or new_folder(running.REPORTS, plan.suite, plan.device)
        count = f"{len(offers)} {'node' if len(offers) == 1 else 'nodes'}"
        terminal.console().print(f"{plan.title}: {running.outlook(plan)}, on one of {count}")
        work = partial(runs.measure, plan, folder, fleet, spread)
        return _carry_out(work, folder, address, quiet=machine.quiet)


def resume(address: str, folder: Path, *, quiet: bool) -> int:
    """Continues a run, on what nodes there are now."""
    from vitbench.fleet import cluster, runs, versions

    device = runs.plan_of(next(iter(runs.begun(folder).values()))).device
    packages = versions.packages_of(runtimes.names())
    with cluster.connected(address, device, packages) as fleet:
        fleet.survey()
        return _carry_out(partial(runs.resume, folder, fleet), folder, address, quiet=quiet)


def _carry_out(
    work: Callable[..., Mapping[Path, Run]], folder: Path, address: str, *, quiet: bool
) -> int:
    from vitbench.render.progress import ProgressBar

    bar: ProgressBar
    with ProgressBar(terminal.console(), quiet=quiet) as bar:
        try:
            done = work(on_progress=bar, on_note=_note)
        except KeyboardInterrupt:
            command = f"vitbench run --resume {folder} --fleet {address}"
            return running.interrupted(folder, command)
    return max([conclude(whole, place) for place, whole in done.items()])


def conclude(done: Run, folder: Path) -> int:
    """The end of a run that several machines measured."""
    from vitbench.results import merge

    status = running.conclude(done, folder)
    _print_nodes(done)
    for sentence in merge.warnings(done):
        _note(sentence)
    return status


def _note(sentence: str) -> None:
    typer.echo(f"vitbench: {sentence}", err=True)


def _print_nodes(run: Run) -> None:
    """What each node measured, and how far the nodes differ."""
    from collections import Counter

    counts = Counter(run.node_of.values())
    spread = run.node_spread()
    text = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    differ = "unknown" if spread is None else f"{spread:.1%}"
    terminal.console().print(f"\noutcomes of each node: {text}; spread of the control: {differ}")


def _print_dealing(plan: Plan, offers: Sequence[Offer], spread: str) -> None:
    """Which node would measure how many cases, and for how long, were all estimates right."""
    from vitbench.cases import plan as plans
    from vitbench.cases import shard
    from vitbench.fleet import runs, versions
    from vitbench.render import tables, units

    here = versions.of_plan(plan)
    reasons = {offer.node: offer.refusal(here) for offer in offers}
    able = [offer for offer in offers if not reasons[offer.node]]
    kinds = sorted({offer.kind for offer in able}) if spread == runs.EACH else [""]
    cost = partial(plans.cost_s, plan)
    shares: dict[str, list[int]] = {}
    for kind in kinds:
        names = [offer.node for offer in able if kind in ("", offer.kind)]
        shares |= dict(zip(names, shard.deal(plan.cases, max(1, len(names)), cost), strict=False))
    rows: list[list[Any]] = []
    for offer in offers:
        slots = shares.get(offer.node, [])
        seconds = sum(cost(plan.cases[slot]) for slot in slots)
        about = units.duration(seconds) if slots else ""
        rows.append([offer.node, offer.kind, str(len(slots)), about, reasons[offer.node]])
    why = "left out, because" if any(reasons.values()) else ""
    header = ("node", "kind", "cases", "about", why)
    terminal.console().print(tables.listing(header, rows))
    control = "" if plan.control is None else ", and the control case in each on every node"
    terminal.console().print(f"\n{running.outlook(plan)}{control}")
