"""journal.jsonl: the truth of a run, line by line; the CSV files follow from it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Set
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.errors import BadInput, StorageFull
from vitbench.results.folder import JOURNAL, make, remove, storage_sentence
from vitbench.results.outcome import (
    Ceilings,
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
class Run:
    """A run as its journal tells it."""

    plan: Plan
    environment: dict[str, Any] = field(default_factory=dict)
    ceilings: Ceilings | None = None
    outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)

    def outcomes_of(self, case: Case) -> list[Outcome]:
        """What is known of a case, round by round."""
        rounds = range(self.plan.rounds)
        return [self.outcomes[case.id, r] for r in rounds if (case.id, r) in self.outcomes]

    def records(self) -> list[Record]:
        """One row per case, in the plan's order."""
        return [
            build_record(case, self.outcomes_of(case), self.ceilings, self.environment)
            for case in self.plan.cases
        ]


def create(folder: Path, plan: Plan) -> Journal:
    """Makes the run folder with the plan in its journal. Raises BadInput; then nothing is left.

    The folder may exist, but not hold a run.
    """
    if os.path.exists(folder / JOURNAL):
        raise BadInput(f"{folder} already holds a run; continue it with --resume {folder}")
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
            run = _apply(run, ids, json.loads(line))
            ids = ids or {case.id for case in run.plan.cases}
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
        if run is not None:
            raise ValueError("a journal has one plan, and this is a second one")
        if entry["format"] != FORMAT:
            raise ValueError(f"format {entry['format']}; this vitbench reads format {FORMAT}")
        return Run(Plan.from_dict(entry["plan"]))
    if run is None:
        raise ValueError("the first line must be the plan")
    if entry["event"] == "environment":
        run.environment = entry["environment"]
        if lacking := ENVIRONMENT - run.environment.keys():
            raise ValueError(f"the environment has no {', '.join(sorted(lacking))}")
        ceilings = entry["ceilings"]
        run.ceilings = None if ceilings is None else ceilings_from_dict(ceilings)
    elif entry["event"] == "outcome":
        case_id, index = entry["case"], entry["round"]
        outcome = outcome_from_dict(entry["outcome"])
        if case_id not in ids or index not in range(run.plan.rounds):
            raise ValueError(f"the plan has no round {index} of a case {case_id}")
        if run.outcomes.setdefault((case_id, index), outcome) != outcome:
            raise ValueError(f"round {index} of the case {case_id} has another outcome before")
    return run


def outcome_entry(case: Case, round_index: int, outcome: Outcome) -> dict[str, Any]:
    """The journal's line for one outcome."""
    data = outcome_to_dict(outcome)
    return {"event": "outcome", "case": case.id, "round": round_index, "outcome": data}


def spent_entry(what: str, seconds: float) -> dict[str, Any]:
    """The journal's line for time that went into no outcome: WORKER_START, CONVERSION."""
    return {"event": "spent", "what": what, "seconds": seconds}


def environment_entry(environment: Mapping[str, Any], ceilings: Ceilings | None) -> dict[str, Any]:
    """The journal's line for what the run runs on."""
    rates = None if ceilings is None else asdict(ceilings)
    return {"event": "environment", "environment": environment, "ceilings": rates}


class Journal:
    """The append-only file. Each line is on the disk before `append` returns.

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

    def append(self, entry: Mapping[str, Any]) -> None:
        """Writes one line. Raises StorageFull with the journal as it was before."""
        line = to_json(entry).encode() + b"\n"
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
