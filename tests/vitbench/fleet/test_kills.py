"""kill -9 of nodes, actors and heads of a real cluster at random moments: the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vitbench.examples import ROOT


@pytest.mark.slow
def test_killed_fleets_have_the_same_rows(tmp_path: Path) -> None:
    """30 kills, ten each of a node, an actor and the head: every outcome is there once, as in an
    undisturbed run. Kills of each hit a run at work."""
    words = ["-m", "tests.vitbench.fleet.kills", str(tmp_path), "30"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["wrong"], report["kills"]) == ([], 30)
    assert all(hits >= 3 for hits in report["hits"].values()), report
