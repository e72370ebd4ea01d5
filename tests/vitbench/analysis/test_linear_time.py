"""Rows by the ten thousand: every step takes time in proportion to them, and none loads torch."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import synthetic_records as synthetic
from tests.vitbench.examples import ROOT
from vitbench.analysis import compare
from vitbench.analysis.advise import advise
from vitbench.analysis.insight import insights
from vitbench.cases.limits import Limits
from vitbench.render import findings, recommendation, tables, verdicts
from vitbench.results import rows
from vitbench.results.record import Record

# Fewer have fewer runtimes and dtypes, and so less to compare each row with.
FEW, MANY = 1600, 12800


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs of so many rows."""
    top = tmp_path_factory.mktemp("runs")
    return {n: synthetic.folder(top / str(n), synthetic.many(n)) for n in (FEW, MANY)}


def _table(records: Sequence[Record]) -> None:
    tables.results_markdown(records)
    tables.notes(records)


def _compare(records: Sequence[Record]) -> None:
    verdicts.cells(compare.compare(records, records))


STEPS: dict[str, Callable[[Sequence[Record]], object]] = {
    "table": _table,
    "compare": _compare,
    "insight": insights,
    "advise": lambda records: advise(records, Limits()),
    "findings": findings.lines,
    "recommendation": recommendation.rows,
}


def _cpu_s(work: Callable[[], object]) -> float:
    """The less of two: what else the process does only adds time."""
    times = []
    for _ in range(2):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def _check_shape(few_s: float, many_s: float) -> None:
    """8 times the rows take 64 times as long where each row looks at all the others."""
    assert many_s < 4 * (MANY / FEW) * few_s


def test_loading_is_linear(folders: dict[int, Path]) -> None:
    """8 times the rows do not take 32 times as long."""
    _check_shape(*(_cpu_s(lambda path=folders[n]: rows.read(path)) for n in (FEW, MANY)))  # type: ignore[misc] # bound for each n


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_linear(folders: dict[int, Path], step: str) -> None:
    """8 times the rows do not take 32 times as long."""
    few, many = (rows.read(folders[n]) for n in (FEW, MANY))
    STEPS[step](few)  # imports what it needs
    _check_shape(*(_cpu_s(lambda own=own: STEPS[step](own)) for own in (few, many)))  # type: ignore[misc] # bound for each


def test_torch_is_not_loaded(folders: dict[int, Path]) -> None:
    """By no command that reads rows: yesterday's are read on a machine without it."""
    run = str(folders[FEW])
    asked = ["--resolution", "64", "--batch-size", "8", "--dtype", "float32"]
    commands = [["table", run], ["compare", run, run], ["insight", run], ["advise", run, *asked]]
    code = "import sys; from vitbench.__main__ import run; "
    code += f"print([run(words) for words in {commands}], 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0] False", done.stderr
    assert f"100 of {FEW} rows are shown" in done.stdout
