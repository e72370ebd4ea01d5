"""The run folder: its name, its files, and what it ran on. Pure, no torch."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitbench.errors import BadInput

if TYPE_CHECKING:
    from vitbench.cases.case import Case

JOURNAL = "journal.jsonl"
RECORDS = "records.csv"
SAMPLES = "samples.csv"
ENVIRONMENT = "environment.json"
PLOTS = "plots"
REPORT = "report.html"
SUMMARY = "summary.md"
SPECTRA, SPECTRA_CSV = "spectra.json", "spectra.csv"
ARTIFACTS = "artifacts"  # what runtimes convert modules into


def storage_sentence(error: OSError, path: Path) -> str:
    """Why the disk did not take a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk that holds {path.parent} is full"
    return f"{path} cannot be written: {error.strerror}"


def new_folder(parent: Path, name: str, device: str, now: datetime | None = None) -> Path:
    """`reports/20260131-154500-quick-cpu`; a number is added where that exists."""
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    stem = f"{stamp}-{name}-{device.replace(':', '')}"
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(folder for name in names if not (folder := parent / name).exists())


def make_folder(folder: Path) -> Path:
    """A new folder for results that are no run, or an empty one. Raises BadInput."""
    make(folder)
    if any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty; choose another --out")
    return folder


def make(folder: Path) -> list[Path]:
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


def remove(path: Path) -> None:
    """Best effort: on a read-only file system even removing what is not there raises."""
    with contextlib.suppress(OSError):
        path.unlink()


def discard(folder: Path, *names: str) -> None:
    """Removes these files, and the folder where it is empty then. Best effort."""
    for name in names:
        remove(folder / name)
    with contextlib.suppress(OSError):
        folder.rmdir()


def artifact_of(case: Case, artifacts: Path) -> Path:
    """The folder of what a case's module is converted into."""
    return artifacts / f"{case.subject}-{case.runtime}-{case.id}"


def read_environment(run: Path) -> dict[str, Any]:
    """The environment of a run folder or a baseline, {} where there is none. Raises BadInput."""
    environment: dict[str, Any] = read_environment_file(run).get("environment", {})
    return environment


def read_environment_file(run: Path) -> dict[str, Any]:
    """The environment of a run folder or a baseline, its ceilings and its plan; {} where there is
    no such file. Raises BadInput.
    """
    path = environment_file(run)
    if run.name == RECORDS and not path.exists():  # of a run, given as its file
        path = run.parent / ENVIRONMENT
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["environment"], dict):
            raise ValueError("its environment is no table")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    return content


def plots_folder(run: Path) -> Path:
    """Where the charts of a run folder or of a CSV file go: `plots`, or `NAME-plots` beside it."""
    if os.path.isdir(run):
        return run / PLOTS
    return run.parent / (PLOTS if run.name == RECORDS else f"{run.stem}-{PLOTS}")


def environment_file(path: Path) -> Path:
    """Where the environment of a run folder or of a baseline's CSV file is kept."""
    return path / ENVIRONMENT if path.is_dir() else path.with_suffix(f".{ENVIRONMENT}")
