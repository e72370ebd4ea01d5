"""The deterministic gate: params, MACs and peak memory of every mechanism are those committed.

Where a change is meant: vitbench run catalogue --resolution 224 --untimed --device cpu --threads 1
and vitbench baseline update RUN --out reports/baseline/counts.csv
"""

from __future__ import annotations

from pathlib import Path

import pytest

import attentions
from tests.vitbench.examples import ROOT, read_csv, vitbench
from vitbench.results.csv import write_csv

BASELINE = ROOT / "reports" / "baseline" / "counts.csv"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The baseline's cases, counted here: the folder, the exit status and what was printed. In one
    thread: two wait for each other ten times as long where other tests take a core."""
    folder = tmp_path_factory.mktemp("counts")
    words = ("--untimed", "--threads", "1", "--quiet", "--out", "run")
    done = vitbench(folder, "check", str(BASELINE), *words)
    return folder / "run", done.returncode, done.stdout + done.stderr


def test_the_counts_are_those_committed(measured: tuple[Path, int, str]) -> None:
    _, status, printed = measured
    assert status == 0, printed
    assert f"{len(attentions.names())} same" in printed


def test_every_mechanism_is_in_the_baseline() -> None:
    assert {row["attention"] for row in read_csv(BASELINE)} == set(attentions.names())


@pytest.mark.parametrize("column", ["params", "macs"])
def test_a_change_is_seen(measured: tuple[Path, int, str], tmp_path: Path, column: str) -> None:
    """One MAC or parameter more than the baseline has is a regression, and is named."""
    rows = read_csv(BASELINE)
    victim = next(row for row in rows if row["attention"] == "hilo")
    victim[column] = str(int(victim[column]) - 1)
    write_csv(tmp_path / "other.csv", list(rows[0]), rows)
    done = vitbench(tmp_path, "check", "other.csv", str(measured[0]), "--untimed")
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"{column} grew from" in done.stdout.replace("\n", " ")
