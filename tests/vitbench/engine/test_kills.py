"""kill -9, of the runner and of the worker: no row is lost, doubled or torn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.vitbench.examples import MARK, ROOT, left_behind


@pytest.fixture(
    scope="module",
    params=[
        ("runner", 8),
        ("worker", 8),
        pytest.param(("runner", 40), marks=pytest.mark.slow),
        pytest.param(("worker", 40), marks=pytest.mark.slow),
    ],
)
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs that are each killed once at a random moment; a killed runner is resumed."""
    victim, kills = request.param
    folder = tmp_path_factory.mktemp(victim)
    done = subprocess.run(
        [sys.executable, "-m", "tests.vitbench.kills", str(folder), str(kills), victim],
        cwd=ROOT,
        env=os.environ | {MARK: str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_the_rows_are_those_of_an_undisturbed_run(killed: tuple[Path, dict[str, Any]]) -> None:
    """The same outcomes in the journal and the same rows in the CSV files, each once."""
    _, report = killed
    assert report["wrong"] == []
    assert report["rows"] > 0
    assert (
        report["hits"] > report["kills"] / 2
    )  # most kills hit a run at work, or this shows nothing


def test_nobody_is_left(killed: tuple[Path, dict[str, Any]]) -> None:
    """A worker ends with its runner, however that ended; no part of a file stays behind."""
    folder, _ = killed
    assert left_behind(str(folder)) == []
    assert [path.name for path in folder.glob("[0-9]*/.*")] == []
