"""The files that follow from a journal: records.csv, samples.csv and environment.json."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from vitbench.errors import StorageFull
from vitbench.results.columns import COLUMN_NAMES
from vitbench.results.folder import (
    ENVIRONMENT,
    JOURNAL,
    RECORDS,
    REPORT,
    SAMPLES,
    SUMMARY,
    remove,
    storage_sentence,
)
from vitbench.results.journal import Run
from vitbench.results.outcome import Measured
from vitbench.results.record import Record
from vitbench.results.replacing import replacing

SAMPLE_COLUMNS = ("case", "round", "sample", "latency_s")


def derive(folder: Path, run: Run) -> list[Path]:
    """Writes records.csv, samples.csv and environment.json anew; returns their paths.

    Raises StorageFull.
    """
    paths = [folder / RECORDS, folder / SAMPLES, folder / ENVIRONMENT]
    for name in (JOURNAL, RECORDS, SAMPLES, ENVIRONMENT, REPORT, SUMMARY):
        for partial in folder.glob(f".{name}.*"):  # of a process that was killed as it wrote
            remove(partial)
    try:
        write_csv(paths[0], COLUMN_NAMES, run.records())
        write_csv(paths[1], SAMPLE_COLUMNS, _sample_rows(run))
        write_json(paths[2], _environment_file(run))
    except OSError as error:
        raise StorageFull(storage_sentence(error, Path(error.filename or paths[0]))) from error
    return paths


def _environment_file(run: Run) -> dict[str, Any]:
    ceilings = None if run.ceilings is None else dataclasses.asdict(run.ceilings)
    plan = run.plan.to_dict() | {
        "cases": len(run.plan.cases),
        # Names: a path says where the user works.
        "plugins": sorted(run.plan.plugins),
        "weights": next((case.weights for case in run.plan.cases if case.weights), None),
    }
    return {"environment": run.environment, "ceilings": ceilings, "plan": plan}


def _sample_rows(run: Run) -> Iterable[Record]:
    for case in run.plan.cases:
        for round_index in range(run.plan.rounds):
            outcome = run.outcomes.get((case.id, round_index))
            if not isinstance(outcome, Measured):
                continue
            for index, sample_s in enumerate(outcome.samples_s):
                values = (case.id, round_index, index, sample_s)
                yield dict(zip(SAMPLE_COLUMNS, values, strict=True))


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a CSV file as a whole: a reader sees the old one or the new one."""
    with replacing(path) as file:
        _write(file, columns, rows)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """What write_csv writes."""
    file = io.StringIO()
    _write(file, columns, rows)
    return file.getvalue()


def _write(file: TextIO, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row[column]) for column in columns] for row in rows)


def write_json(path: Path, data: Any) -> None:
    """Replaces a JSON file as a whole, its keys in a stable order."""
    with replacing(path) as file:
        json.dump(data, file, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}"
    return value
