"""The report of a machine with a GPU: it goes on where a part fails, and says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests import device_report
from tests.device_report import Part, parts, report

PYTHON = [sys.executable, "-c"]


def test_it_goes_on_where_a_part_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part has its output, and README.md says how each ended, in order."""
    made = [
        Part("good", [*PYTHON, "print('fine')"], 60),
        Part("bad", [*PYTHON, "raise SystemExit(3)"], 60),
        Part("long", [*PYTHON, "import time; time.sleep(60)"], 0.1),
        Part("last", [*PYTHON, "print('reached')"], 60),
    ]
    monkeypatch.setattr(device_report, "parts", lambda *_, **__: made)
    outcomes = report(tmp_path / "new", simulated=True)
    assert [one.status for one in outcomes] == [0, 3, None, 0]
    lines = (tmp_path / "new" / "README.md").read_text().splitlines()
    ends = [line.split("|")[2].strip() for line in lines if line.startswith("| ")][2:]
    assert ends == ["done", "failed: exit status 3", "not done within 0 s", "done"]
    assert (tmp_path / "new" / "last.txt").read_text() == "reached\n"


def test_the_parts_are_of_the_device(tmp_path: Path) -> None:
    """The customer's command is among them, and all fit into ten minutes."""
    made = {part.name: part for part in parts(tmp_path, tmp_path, simulated=False)}
    assert set(made) == {"doctor", "quick", "tests", "catalogue", "ab"}
    assert " ".join(made["quick"].command[1:7]) == "-m vitbench run quick --device cuda"
    assert sum(part.limit_s for part in made.values()) <= 600


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """One sentence, exit status 2."""
    app = typer.Typer()
    app.command()(device_report.main)
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 2
    assert "already" in result.output
