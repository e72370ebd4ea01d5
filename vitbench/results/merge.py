"""The run whose shards were measured apart: a function of their journals alone. Pure, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitbench.analysis import nodes
from vitbench.cases import shard
from vitbench.devices import rules
from vitbench.errors import BadInput
from vitbench.results import journal
from vitbench.results.csv import derive
from vitbench.results.journal import Run
from vitbench.results.outcome import Failed


def merge(shards: Mapping[str, Run]) -> Run:
    """The whole run, by a name of each shard. Raises BadInput where they are not all shards of one
    plan, where one is not complete, or where they were measured on unlike machines or versions."""
    whole = Run(shard.whole_of({name: run.plan for name, run in shards.items()}))
    (first, reference), *others = shards.items()
    for name, run in shards.items():
        _check_complete(name, run)
    for name, run in others:
        if difference := unlike(reference.environment, run.environment):
            raise BadInput(f"{name} was measured with another {difference} than {first}")
    for run in sorted(shards.values(), key=lambda run: str(run.plan.shard).zfill(15)):
        for name, node in run.nodes.items():
            whole.begin(node.environment, node.ceilings, name)
            whole.nodes[name].controls.update(node.controls)
        whole.outcomes |= run.outcomes
        whole.node_of |= run.node_of
    return whole


def unlike(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first thing in which two machines differ that one run must not mix, as `torch: 2.13 and
    2.14`; "" where they are alike."""
    pairs: list[tuple[str, Any, Any]] = [
        ("device", one["device_name"], other["device_name"]),
        ("torch", one["torch"]["version"], other["torch"]["version"]),
        ("number of threads", one["torch"]["threads"], other["torch"]["threads"]),
    ]
    codes = [of.get("code_digest") for of in (one, other)]
    if None in codes:  # of an earlier release
        codes = [(of.get("code") or {}).get("commit") for of in (one, other)]
    pairs.append(("code of vitbench", codes[0], codes[1]))
    mine, theirs = one.get("packages", {}), other.get("packages", {})
    pairs += [(name, mine.get(name), theirs.get(name)) for name in sorted({*mine, *theirs})]
    files, others = one.get("plugins", {}), other.get("plugins", {})
    for name in sorted({*files, *others}):
        digests = [of.get(name, {}).get("sha256", "")[:12] for of in (files, others)]
        pairs.append((f"content of the plugin {name}", digests[0], digests[1]))
    for what, is_here, is_there in pairs:
        if is_here != is_there:
            return f"{what}: {is_there or 'none'}, not {is_here or 'none'},"
    return ""


def _check_complete(name: str, run: Run) -> None:
    rounds = run.plan.rounds
    lacking = [
        case
        for case in run.plan.cases
        if len(outcomes := run.outcomes_of(case)) < rounds
        and not any(isinstance(outcome, Failed) for outcome in outcomes)
    ]
    if lacking:
        raise BadInput(
            f"{name} lacks {len(lacking)} of {len(run.plan.cases)} cases: continue it with "
            f"`vitbench run --resume {name}`"
        )


def warnings(run: Run) -> list[str]:
    """A sentence for each machine whose control differs from the others' in a round by more than
    the device's limit of noise."""
    floor = rules(run.plan.device).max_slowdown
    sentences = []
    for index in range(run.plan.rounds):
        for name, share in nodes.unlike(run.controls(index), floor).items():
            sentences.append(
                f"{name} takes {1 + share:.3g} times as long as the others for the same case in "
                f"round {index + 1} (limit {floor:.0%})"
            )
    return sentences


def write(run: Run, folder: Path) -> None:
    """A run folder, whose journal holds the whole run. Raises BadInput, StorageFull."""
    entries = [
        journal.environment_entry(node.environment, node.ceilings, name)
        for name, node in run.nodes.items()
    ]
    for name, node in run.nodes.items():
        controls = sorted(node.controls.items())
        entries += [journal.control_entry(name, index, outcome) for index, outcome in controls]
    for index in range(run.plan.rounds):
        for case in run.plan.cases:
            if (outcome := run.outcomes.get((case.id, index))) is not None:
                name = run.node_of.get((case.id, index), "")
                entries.append(journal.outcome_entry(case, index, outcome, name))
    with journal.create(folder, run.plan) as file:
        file.append(*entries)
    derive(folder, run)
