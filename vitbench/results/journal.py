"""journal.jsonl: the truth of a run, line by line; the CSV files follow from it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vitbench.analysis import nodes as analysis
from vitbench.analysis import stats
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.cases.scalars import Scalar
from vitbench.errors import BadInput, StorageFull
from vitbench.results.folder import JOURNAL, make, remove, storage_sentence
from vitbench.results.outcome import (
    Ceilings,
    Measured,
    Outcome,
    ceilings_from_dict,
    outcome_from_dict,
    outcome_to_dict,
    to_json,
)
from vitbench.results.record import Record, build_record

try:
    import fcntl
except ImportError:  # Windows, where nothing is measured: journals are only read
    fcntl = None  # type: ignore[assignment] # so typed where the module is always there

FORMAT = 1
ENVIRONMENT = {"device_name", "torch"}  # what every description of a machine has
WORKER_START, CONVERSION = "worker start", "conversion"
_LOCK_S = 2.0


@dataclass(slots=True)
class Node:
    """A machine of a run that several measure. `controls`: its control case, round by round."""

    environment: dict[str, Any]
    ceilings: Ceilings | None
    controls: dict[int, Outcome] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draw:
    """A setting that was drawn from a plan's space before a round, and its cases."""

    round_index: int
    setting: Mapping[str, Scalar]
    cases: tuple[Case, ...]


@dataclass(slots=True)
class Run:
    """A run as its journal tells it.

    environment, ceilings  of its machine; of the first one where there are several
    nodes    the machines of a run that several measure, by name
    node_of  which of them gave an outcome
    drawn    of a run that tunes: what was drawn from its space, round by round
    """

    plan: Plan
    environment: dict[str, Any] = field(default_factory=dict)
    ceilings: Ceilings | None = None
    outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    node_of: dict[tuple[str, int], str] = field(default_factory=dict)
    drawn: list[Draw] = field(default_factory=list)

    def begin(self, environment: dict[str, Any], ceilings: Ceilings | None, node: str = "") -> None:
        """Takes note of what it runs on, or of one of its nodes."""
        if not (node and self.nodes):
            self.environment, self.ceilings = environment, ceilings
        if node:
            self.nodes.setdefault(node, Node(environment, ceilings))

    def keep(self, case: Case, round_index: int, outcome: Outcome, node: str = "") -> None:
        """Takes note of an outcome."""
        self.outcomes[case.id, round_index] = outcome
        if node:
            self.node_of[case.id, round_index] = node

    def draw(self, draw: Draw) -> None:
        """Adds the cases of a setting to the plan."""
        self.plan = replace(self.plan, cases=(*self.plan.cases, *draw.cases))
        self.drawn.append(draw)

    def medians(self) -> dict[str, dict[int, float]]:
        """The median of each case in each round that measured it, seconds."""
        found: dict[str, dict[int, float]] = {}
        for (case_id, index), outcome in self.outcomes.items():
            if isinstance(outcome, Measured):
                found.setdefault(case_id, {})[index] = stats.median(outcome.samples_s)
        return found

    def outcomes_of(self, case: Case) -> list[Outcome]:
        """What is known of a case, round by round."""
        return [self.outcomes[case.id, r] for r in self._rounds() if (case.id, r) in self.outcomes]

    def records(self) -> list[Record]:
        """One row per case, in the plan's order."""
        spread = self.node_spread()
        return [self._record(case, spread) for case in self.plan.cases]

    def _record(self, case: Case, spread: float | None) -> Record:
        keys = [(case.id, index) for index in self._rounds()]
        names = [self.node_of[key] for key in keys if key in self.node_of]
        outcomes = self.outcomes_of(case)
        if not names:
            return build_record(case, outcomes, self.ceilings, self.environment)
        node = self.nodes[names[0]]
        text = ", ".join(dict.fromkeys(names))
        return build_record(case, outcomes, node.ceilings, node.environment, text, spread)

    def controls(self, round_index: int) -> dict[str, float | None]:
        """Seconds of the control case in a round, of each node that gave an outcome or the control
        there; None where it was not measured."""
        names = {name for (_, r), name in self.node_of.items() if r == round_index}
        names |= {name for name, node in self.nodes.items() if round_index in node.controls}
        outcomes = {name: self.nodes[name].controls.get(round_index) for name in sorted(names)}
        return {
            name: stats.median(outcome.samples_s) if isinstance(outcome, Measured) else None
            for name, outcome in outcomes.items()
        }

    def node_spread(self) -> float | None:
        """By how much the nodes that gave outcomes differ in the control case, at most."""
        giving = [{n for (_, r), n in self.node_of.items() if r == i} for i in self._rounds()]
        controls = [self.controls(index) for index in self._rounds()]
        pairs = zip(controls, giving, strict=True)
        return analysis.spread({n: c for n, c in of.items() if n in names} for of, names in pairs)

    def _rounds(self) -> range:
        return range(self.plan.rounds)

    def restart(self, round_index: int) -> None:
        """Forgets what a round measured, but not what failed in it."""
        for key in [key for key, outcome in self.outcomes.items() if key[1] == round_index]:
            if isinstance(self.outcomes[key], Measured):
                del self.outcomes[key]

    def withdraw(self, node: str, round_index: int) -> None:
        """Forgets what a node that differs from the others gave in a round."""
        for key in [key for key, name in self.node_of.items() if name == node]:
            if key[1] == round_index:
                del self.outcomes[key], self.node_of[key]


def restart_entry(round_index: int) -> dict[str, Any]:
    """The journal's line for a round that begins again: what it measured does not count."""
    return {"event": "restarted", "round": round_index}


def check_new(folder: Path) -> None:
    """Raises BadInput where the folder holds a run."""
    if os.path.exists(folder / JOURNAL):
        raise BadInput(f"{folder} already holds a run; continue it with --resume {folder}")


def create(folder: Path, plan: Plan) -> Journal:
    """Makes the run folder with the plan in its journal. Raises BadInput; then nothing is left.

    The folder may exist, but not hold a run.
    """
    check_new(folder)
    made = make(folder)
    header = {
        "event": "plan",
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "plan": plan.to_dict(),
    }
    partial = folder / f".{JOURNAL}.{os.getpid()}"
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(to_json(header) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, folder / JOURNAL)  # fails where another run came first; never replaces
    except FileExistsError:
        raise BadInput(f"{folder} already holds a run; choose another --out") from None
    except OSError as error:
        remove(partial)
        for path in made:
            path.rmdir()
        raise BadInput(f"{folder} cannot be written: {error.strerror}") from None
    finally:
        remove(partial)
    return Journal(folder / JOURNAL)


def read(folder: Path) -> Run:
    """The run in a folder, from its journal. Raises BadInput."""
    path = folder / JOURNAL
    try:
        data = path.read_bytes()[: _end_of_last_line(path)]
    except OSError as error:
        raise BadInput(f"{folder} holds no run: {JOURNAL}: {error.strerror}") from None
    run: Run | None = None
    ids: set[str] = set()
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            before = 0 if run is None else len(run.plan.cases)
            run = _apply(run, ids, json.loads(line))
            ids |= {case.id for case in run.plan.cases[before:]}
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = str(error).partition("\n")[0]
            raise BadInput(f"{path}, line {number}, is not a journal entry: {reason}") from None
    if run is None:
        raise BadInput(f"{path} holds no plan")
    return run


def _apply(run: Run | None, ids: Set[str], entry: Mapping[str, Any]) -> Run:
    """The run with one more entry; `ids` are those of its cases."""
    if entry["event"] == "plan":
        return _begun(run, entry)
    if run is None:
        raise ValueError("the first line must be the plan")
    match entry["event"]:
        case "environment":
            _apply_environment(run, entry)
        case "outcome":
            _apply_outcome(run, ids, entry)
        case "drawn":
            _apply_draw(run, entry)
        case "restarted":
            run.restart(entry["round"])
        case "control":
            outcome = outcome_from_dict(entry["outcome"])
            run.nodes[_known(run, entry["node"])].controls[entry["round"]] = outcome
        case "withdrawn":
            run.withdraw(_known(run, entry["node"]), entry["round"])
    return run


def _begun(run: Run | None, entry: Mapping[str, Any]) -> Run:
    """The run of a plan, which is the first line."""
    if run is not None:
        raise ValueError("a journal has one plan, and this is a second one")
    if entry["format"] != FORMAT:
        raise ValueError(f"format {entry['format']}; this vitbench reads format {FORMAT}")
    return Run(Plan.from_dict(entry["plan"]))


def _apply_draw(run: Run, entry: Mapping[str, Any]) -> None:
    cases = tuple(Case.from_dict(case) for case in entry["cases"])
    run.draw(Draw(entry["round"], entry["setting"], cases))


def _apply_environment(run: Run, entry: Mapping[str, Any]) -> None:
    environment, ceilings = entry["environment"], entry["ceilings"]
    if lacking := ENVIRONMENT - environment.keys():
        raise ValueError(f"the environment has no {', '.join(sorted(lacking))}")
    rates = None if ceilings is None else ceilings_from_dict(ceilings)
    run.begin(environment, rates, entry.get("node", ""))


def _apply_outcome(run: Run, ids: Set[str], entry: Mapping[str, Any]) -> None:
    key, outcome = (entry["case"], entry["round"]), outcome_from_dict(entry["outcome"])
    if key[0] not in ids or key[1] not in range(run.plan.rounds):
        raise ValueError(f"the plan has no round {key[1]} of a case {key[0]}")
    if run.outcomes.setdefault(key, outcome) != outcome:
        raise ValueError(f"round {key[1]} of the case {key[0]} has another outcome before")
    if name := entry.get("node"):
        run.node_of[key] = _known(run, name)


def _known(run: Run, name: str) -> str:
    if name not in run.nodes:
        raise ValueError(f"no environment is there of the node {name}")
    return name


def outcome_entry(case: Case, round_index: int, outcome: Outcome, node: str = "") -> dict[str, Any]:
    """The journal's line for one outcome, and for the node that gave it where there are several."""
    data = outcome_to_dict(outcome)
    entry = {"event": "outcome", "case": case.id, "round": round_index, "outcome": data}
    return entry | _of(node)


def draw_entry(draw: Draw) -> dict[str, Any]:
    """The journal's line for a setting that joins the plan."""
    cases = [case.to_dict() for case in draw.cases]
    return {"event": "drawn", "round": draw.round_index, "setting": draw.setting, "cases": cases}


def _of(node: str) -> dict[str, str]:
    return {"node": node} if node else {}


def spent_entry(what: str, seconds: float) -> dict[str, Any]:
    """The journal's line for time that went into no outcome: WORKER_START, CONVERSION."""
    return {"event": "spent", "what": what, "seconds": seconds}


def environment_entry(
    environment: Mapping[str, Any], ceilings: Ceilings | None, node: str = ""
) -> dict[str, Any]:
    """The journal's line for what the run runs on, or one of its nodes."""
    rates = None if ceilings is None else asdict(ceilings)
    entry = {"event": "environment", "environment": environment, "ceilings": rates}
    return entry | _of(node)


def control_entry(node: str, round_index: int, outcome: Outcome) -> dict[str, Any]:
    """The journal's line for the control case on a node."""
    data = outcome_to_dict(outcome)
    return {"event": "control", "node": node, "round": round_index, "outcome": data}


def withdrawn_entry(node: str, round_index: int) -> dict[str, Any]:
    """The journal's line for a round in which what a node gave does not count."""
    return {"event": "withdrawn", "node": node, "round": round_index}


class Journal:
    """The append-only file. What is appended is on the disk before `append` returns.

    One process at a time: the file is locked. Raises BadInput where it is locked already.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("r+b", buffering=0)
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}") from None
        if not self._lock():
            self._file.close()
            raise BadInput(f"{path.parent} is being written by another vitbench")
        self._end = _end_of_last_line(path)
        self._file.truncate(self._end)  # a line that was torn by a kill is no line
        self._file.seek(self._end)

    def _lock(self) -> bool:
        """Waits a little: a worker that a killed runner was about to start holds the file until it
        is a program of its own."""
        deadline = time.monotonic() + _LOCK_S
        while fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.02)
        return True

    def append(self, *entries: Mapping[str, Any]) -> None:
        """Writes lines, all or none. Raises StorageFull with the journal as it was before."""
        line = b"".join(to_json(entry).encode() + b"\n" for entry in entries)
        try:
            written = 0
            while written < len(line):  # an unbuffered file may take a part
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise StorageFull(storage_sentence(error, Path(self._file.name))) from error
        self._end += len(line)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _end_of_last_line(path: Path) -> int:
    """Bytes up to and including the last newline."""
    return path.read_bytes().rfind(b"\n") + 1
