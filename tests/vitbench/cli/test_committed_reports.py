"""The committed reports, of older releases: every command that reads a run reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vitbench.examples import ROOT, read_csv
from vitbench.__main__ import run

REPORTS = ROOT / "reports"
# Those of many charts are the long tail; a page's commands draw them too.
FOLDERS = [
    pytest.param(path.parent.name, marks=pytest.mark.slow if many else [])
    for path in sorted(REPORTS.glob("*/records.csv"))
    for many in [len([*path.parent.glob("plots/*.png")]) > 3]
]


@pytest.mark.parametrize("name", FOLDERS)
def test_every_run_is_read(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """table says what its page says; compare and check find it as fast as itself; plot and trend
    draw it."""
    folder = str(REPORTS / name)
    statuses = [record["status"] for record in read_csv(REPORTS / name / "records.csv")]
    assert run(["table", folder, "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    rows = [line for line in lines if line.startswith("| ")]  # notes on marks stand below
    assert len(rows) == len(statuses)
    assert run(["compare", folder, folder]) == 0
    assert "geometric mean of the latency ratios: 1.000" in capsys.readouterr().out
    is_whole = {*statuses} <= {"measured", "unsupported"}
    assert run(["check", folder, folder, "--untimed"]) == (0 if is_whole else 5)
    assert f" ({statuses.count('measured')} same" in capsys.readouterr().out
    assert run(["plot", folder, "--out", str(tmp_path / "plots")]) == 0
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {path.name for path in (REPORTS / name / "plots").glob("*.png")} <= drawn
    assert run(["trend", folder, folder, "--out", str(tmp_path / "trend")]) == 0
    assert (tmp_path / "trend" / "history.png").exists()


def test_the_committed_baseline_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    """Its cases were counted, not timed."""
    baseline = str(REPORTS / "baseline" / "counts.csv")
    assert run(["check", baseline, baseline, "--untimed"]) == 0
    assert "no regression" in capsys.readouterr().out
