"""The deterministic gate: params, MACs and peak memory of every mechanism are those committed.

Where a change is meant: vitbench run catalogue --resolution 224 --untimed --device cpu --threads 2
and vitbench baseline update RUN --out reports/baseline/counts.csv
"""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

import attentions

ROOT = Path(__file__).parents[1]
BASELINE = ROOT / "reports" / "baseline" / "counts.csv"


def check(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vitbench", "check", *words, "--untimed"]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """The baseline's cases, counted here: the folder, the exit status and what was printed."""
    folder = tmp_path_factory.mktemp("counts")
    done = check(str(BASELINE), "--threads", "2", "--quiet", "--out", "run", cwd=folder)
    return folder / "run", done.returncode, done.stdout + done.stderr


def test_the_counts_are_those_committed(measured: tuple[Path, int, str]) -> None:
    _, status, printed = measured
    assert status == 0, printed
    assert f"{len(attentions.names())} same" in printed


def test_every_mechanism_is_in_the_baseline() -> None:
    with BASELINE.open(newline="") as file:
        assert {row["attention"] for row in csv.DictReader(file)} == set(attentions.names())


@pytest.mark.parametrize("column", ["params", "macs"])
def test_a_change_is_seen(measured: tuple[Path, int, str], tmp_path: Path, column: str) -> None:
    """One MAC or parameter more than the baseline has is a regression, and is named."""
    with BASELINE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    victim = next(row for row in rows if row["attention"] == "hilo")
    victim[column] = str(int(victim[column]) - 1)
    with (tmp_path / "other.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    done = check("other.csv", str(measured[0]), cwd=tmp_path)
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"{column} grew from" in done.stdout.replace("\n", " ")
