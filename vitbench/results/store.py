"""The run folder: journal.jsonl is the truth; the CSV files and environment.json follow from it."""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.errors import BadInput
from vitbench.results.record import (
    COLUMN_NAMES,
    Ceilings,
    Measured,
    Outcome,
    Record,
    build_record,
    outcome_from_dict,
    outcome_to_dict,
    to_json,
)

FORMAT = 1
JOURNAL = "journal.jsonl"
RECORDS = "records.csv"
SAMPLES = "samples.csv"
ENVIRONMENT = "environment.json"
_LOCK_S = 2.0
SAMPLE_COLUMNS = ("case", "round", "sample", "latency_s", "wall_latency_s")


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
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.02)

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
            raise StorageFull(_storage_sentence(error, Path(self._file.name))) from error
        self._end += len(line)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class StorageFull(OSError):
    """The disk took no more; the message is one sentence."""


def _storage_sentence(error: OSError, path: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk that holds {path.parent} is full"
    return f"{path} cannot be written: {error.strerror}"


def create(folder: Path, plan: Plan) -> Journal:
    """Makes the run folder with the plan in its journal. Raises BadInput; then nothing is left.

    The folder may exist, but not hold a run.
    """
    if os.path.exists(folder / JOURNAL):
        raise BadInput(f"{folder} already holds a run; continue it with --resume {folder}")
    made = _make(folder)
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
        _remove(partial)
        raise BadInput(f"{folder} already holds a run; choose another --out") from None
    except OSError as error:
        _remove(partial)
        for path in made:
            path.rmdir()
        raise BadInput(f"{folder} cannot be written: {error.strerror}") from None
    _remove(partial)
    return Journal(folder / JOURNAL)


def make_folder(folder: Path) -> Path:
    """A new folder for results that are no run, or an empty one. Raises BadInput."""
    _make(folder)
    if any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty; choose another --out")
    return folder


def _remove(path: Path) -> None:
    """Best effort: on a read-only file system even removing what is not there raises."""
    with contextlib.suppress(OSError):
        path.unlink()


def _make(folder: Path) -> list[Path]:
    """Makes the folder and its parents; returns those that are new, innermost first."""
    missing = [path for path in (folder, *folder.parents) if not os.path.exists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        for path in missing:
            if os.path.isdir(path):
                path.rmdir()
        raise BadInput(f"{folder} cannot be made: {error.strerror}") from None
    return missing


def new_folder(parent: Path, name: str, device: str, now: datetime | None = None) -> Path:
    """`reports/20260131-154500-quick-cpu`; a number is added where that exists."""
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    stem = f"{stamp}-{name}-{device.replace(':', '')}"
    number = 1
    while True:
        folder = parent / (stem if number == 1 else f"{stem}-{number}")
        if not folder.exists():
            return folder
        number += 1


def read(folder: Path) -> Run:
    """The run in a folder, from its journal. Raises BadInput."""
    path = folder / JOURNAL
    try:
        data = path.read_bytes()[: _end_of_last_line(path)]
    except OSError as error:
        raise BadInput(f"{folder} holds no run: {JOURNAL}: {error.strerror}") from None
    run: Run | None = None
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            entry = json.loads(line)
            run = _apply(run, entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{path}, line {number}, is not a journal entry: {error}") from None
    if run is None:
        raise BadInput(f"{path} holds no plan")
    return run


def _apply(run: Run | None, entry: Mapping[str, Any]) -> Run:
    if entry["event"] == "plan":
        if entry["format"] != FORMAT:
            raise ValueError(f"format {entry['format']}; this vitbench reads format {FORMAT}")
        return Run(Plan.from_dict(entry["plan"]))
    if run is None:
        raise ValueError("the first line must be the plan")
    if entry["event"] == "environment":
        run.environment = entry["environment"]
        ceilings = entry["ceilings"]
        run.ceilings = None if ceilings is None else Ceilings(**ceilings)
    elif entry["event"] == "outcome":
        run.outcomes[entry["case"], entry["round"]] = outcome_from_dict(entry["outcome"])
    return run


def read_environment(place: Path) -> dict[str, Any]:
    """The environment of a run folder or a baseline, {} where there is none. Raises BadInput."""
    path = environment_file(place)
    try:
        environment: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["environment"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    return environment


def environment_file(path: Path) -> Path:
    """Where the environment of a run folder or of a baseline's CSV file is kept."""
    return path / ENVIRONMENT if path.is_dir() else path.with_suffix(f".{ENVIRONMENT}")


def outcome_entry(case: Case, round_index: int, outcome: Outcome) -> dict[str, Any]:
    """The journal's line for one outcome."""
    data = outcome_to_dict(outcome)
    return {"event": "outcome", "case": case.id, "round": round_index, "outcome": data}


def environment_entry(
    environment: Mapping[str, Any], ceilings: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The journal's line for what the run runs on."""
    return {"event": "environment", "environment": environment, "ceilings": ceilings}


def derive(folder: Path, run: Run) -> list[Path]:
    """Writes records.csv, samples.csv and environment.json anew; returns their paths.

    Raises StorageFull.
    """
    paths = [folder / RECORDS, folder / SAMPLES, folder / ENVIRONMENT]
    for name in (JOURNAL, RECORDS, SAMPLES, ENVIRONMENT):
        for partial in folder.glob(f".{name}.*"):  # of a process that was killed as it wrote
            _remove(partial)
    try:
        write_csv(paths[0], COLUMN_NAMES, run.records())
        write_csv(paths[1], SAMPLE_COLUMNS, _sample_rows(run))
        write_json(paths[2], _environment_file(run))
    except OSError as error:
        raise StorageFull(_storage_sentence(error, Path(error.filename or paths[0]))) from error
    return paths


def _environment_file(run: Run) -> dict[str, Any]:
    ceilings = None
    if run.ceilings is not None:
        ceilings = {
            "flops_rate": dict(run.ceilings.flops_rate),
            "bandwidth": run.ceilings.bandwidth,
        }
    plan = run.plan.to_dict()
    plan["cases"] = len(run.plan.cases)
    plan["plugins"] = sorted(run.plan.plugins)
    return {"environment": run.environment, "ceilings": ceilings, "plan": plan}


def _sample_rows(run: Run) -> Iterable[Record]:
    for case in run.plan.cases:
        for round_index in range(run.plan.rounds):
            outcome = run.outcomes.get((case.id, round_index))
            if not isinstance(outcome, Measured):
                continue
            pairs = zip(outcome.samples_s, outcome.wall_samples_s, strict=True)
            for index, (device_s, wall_s) in enumerate(pairs):
                values = (case.id, round_index, index, device_s, wall_s)
                yield dict(zip(SAMPLE_COLUMNS, values, strict=True))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a CSV file as a whole: a reader sees the old one or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for row in rows:
                writer.writerow([_cell(row[column]) for column in columns])
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, data: Any) -> None:
    """Replaces a JSON file as a whole, its keys in a stable order."""
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}"
    return value


def _end_of_last_line(path: Path) -> int:
    """Bytes up to and including the last newline."""
    return path.read_bytes().rfind(b"\n") + 1
