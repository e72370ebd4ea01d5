"""The report of a machine with a GPU: it goes on where a part fails, and says so."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tests import device_report
from tests.device_report import Part, carried_out, page, parts, report
from tests.vitbench.examples import ROOT, case, facts, measured, run_folder
from vitbench.cases.case import Case
from vitbench.results.outcome import Failed, Outcome

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
    text = (tmp_path / "new" / "README.md").read_text()
    lines = text.splitlines()
    ends = [line.split("|")[2].strip() for line in lines if line.startswith("| ")][2:]
    assert ends == ["done", "failed: exit status 3", "not done within 0 s", "done"]
    assert "## last\n\n```text\nreached\n```" in text
    assert (tmp_path / "new" / "last.txt").read_text() == "reached\n"
    assert not (tmp_path / "new" / "base").exists()


def test_a_part_whose_time_is_up_may_write_what_it_has(tmp_path: Path) -> None:
    """It is interrupted before it is killed, and what it says of the tree is no path of this
    machine."""
    script = f"trap 'echo {ROOT}/saved; exit 1' INT; while :; do sleep 0.1; done"
    outcome = carried_out(Part("long", ["sh", "-c", script], 1.0), tmp_path)
    assert outcome.status is None
    assert outcome.seconds < 20
    assert (tmp_path / "long.txt").read_text() == "saved\n"


def test_the_parts_are_of_the_device(tmp_path: Path) -> None:
    """The customer's command is among them, and all fit into ten minutes."""
    made = {part.name: part for part in parts(tmp_path, simulated=False)}
    assert set(made) == {"doctor", "quick", "tests", "catalogue", "runtimes", "ab"}
    assert " ".join(made["quick"].command[1:5]) == "-m vitbench run quick"
    for name in ("doctor", "quick", "catalogue", "runtimes", "ab"):
        assert "--device cuda" in " ".join(made[name].command)
    assert sum(part.limit_s for part in made.values()) <= 600
    words = [word for part in made.values() for word in part.command[1:]]
    assert not any(os.path.isabs(word) for word in words)


def test_the_page_says_what_was_measured_and_what_was_not(tmp_path: Path) -> None:
    """On which device, with what trust; which cases were not, and why; which columns are empty."""
    broken = case(batch_size=4)
    outcomes: dict[Case, Sequence[Outcome]] = {
        case(): (measured(facts=facts(notes="energy: none")),) * 2,
        broken: (Failed("out_of_memory", "no | memory"),) * 2,
    }
    gpu = {"name": "H100", "driver": "570.1"}
    run_folder(
        tmp_path / "quick",
        outcomes,
        device_name="NVIDIA H100",
        gpu=gpu,
        code={"commit": "0123456789abcdef", "dirty": True},
    )
    text = page(tmp_path, [device_report.Outcome(Part("quick", [], 60), 1, 12.3)])
    assert "On NVIDIA H100, driver 570.1, torch 2.13, commit 0123456789 with changes." in text
    assert "1 of 2 cases were measured" in text
    assert "batch 4" in text
    assert "out_of_memory | no \\| memory |" in text
    assert "`energy_j_img` in 1" in text
    assert "| energy: none | 1 |" in text
    assert "`peak_memory_bytes`" not in text


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    """One sentence, exit status 2."""
    app = typer.Typer()
    app.command()(device_report.main)
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 2
    assert "already" in result.output
