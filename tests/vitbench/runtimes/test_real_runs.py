"""Real runs in other runtimes: on a busy machine, killed while they convert, and continued."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vitbench.examples import MARK, left_behind, read_csv, vitbench
from tests.vitbench.runtimes.test_converting import CONVERTING
from vitbench import runtimes
from vitbench.results.folder import ARTIFACTS, JOURNAL, RECORDS

_AXES = ["--attention", "msa,hilo", "--resolution", "224", "--dim", "96", "--heads", "6"]
_RUN = ["run", *_AXES, "--batch-size", "1", "--device", "cpu", "--effort", "quick", "--rounds", "2"]


# The runtimes that convert for a CPU, and in which dtypes.
CONVERTED = [
    (name, dtype)
    for name in CONVERTING
    for dtype in ("float32", runtimes.INT8)
    if dtype == "float32" or runtimes.load(name).RULES.int8_packages is not None
]


@pytest.fixture
def busy() -> Iterator[None]:
    """Another process computes meanwhile."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    yield
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("runtime", ["eager", *CONVERTING])
def test_no_row_of_a_busy_machine_is_trusted(tmp_path: Path, runtime: str) -> None:
    """Where another process takes a core from its threads, none is above C."""
    done = vitbench(tmp_path, *_RUN, "--runtime", runtime, "--out", "run")
    assert done.returncode == 0, done.stderr
    rows = read_csv(tmp_path / "run" / RECORDS)
    assert [row["status"] for row in rows] == ["measured"] * 2
    assert {row["trust"] for row in rows} <= {"C", "D"}, rows


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "executorch"])
def test_the_first_case_of_a_worker_is_like_the_others(tmp_path: Path, runtime: str) -> None:
    """What checks import is not its memory, nor what the package starts its change of settings."""
    done = vitbench(tmp_path, *_RUN, "--runtime", runtime, "--out", "run")
    assert done.returncode == 0, done.stderr
    for row in read_csv(tmp_path / "run" / RECORDS):
        assert int(row["peak_memory_bytes"]) < 64 * 2**20, row
        assert "changed settings" not in row["trust_reasons"], row


@pytest.mark.slow
@pytest.mark.usefixtures("busy")
def test_the_doctor_says_so_before(tmp_path: Path) -> None:
    """With the grade to expect, and a finding that names the contention."""
    done = vitbench(tmp_path, "doctor", "--device", "cpu", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["expected_trust"] in "CD"
    graded = {each["what"]: each["grade"] for each in report["findings"]}
    assert any(what.startswith("contention") and grade == "C" for what, grade in graded.items())


def _files(folder: Path) -> dict[str, int]:
    """What was converted, with when it was written."""
    files = [path for path in (folder / ARTIFACTS).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
@pytest.mark.parametrize(("runtime", "dtype"), CONVERTED)
def test_a_run_that_is_continued_converts_nothing(tmp_path: Path, runtime: str, dtype: str) -> None:
    """Cut off after its first outcome, with all that it had converted."""
    done = vitbench(tmp_path, *_RUN, "--runtime", runtime, "--dtype", dtype, "--out", "run")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "run"
    converted = _files(folder)
    assert sum(name.endswith("columns.json") for name in converted) == 2
    lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if json.loads(line)["event"] == "outcome")
    (folder / JOURNAL).write_text("".join(lines[: first + 1]), encoding="utf-8")
    done = vitbench(tmp_path, "run", "--resume", "run")
    assert done.returncode == 0, done.stderr
    rows = read_csv(folder / RECORDS)
    assert [(row["status"], row["rounds"]) for row in rows] == [("measured", "2")] * 2
    assert _files(folder) == converted


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize(("runtime", "dtype"), CONVERTED)
def test_ended_while_it_converts(
    tmp_path: Path, runtime: str, dtype: str, sent: signal.Signals
) -> None:
    """It leaves no half of a file that is taken for a whole one, and no process; continued, it ends
    as an undisturbed one."""
    command = [sys.executable, "-m", "vitbench", *_RUN]
    command += ["--runtime", runtime, "--dtype", dtype, "--out", "run"]
    environment = os.environ | {MARK: str(tmp_path)}
    folder = tmp_path / "run"
    run = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not any((folder / ARTIFACTS).glob("*.part")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    run.send_signal(sent)
    run.wait()
    while left_behind(str(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = vitbench(tmp_path, "run", "--resume", "run")
    assert done.returncode == 0, done.stderr
    rows = read_csv(folder / RECORDS)
    assert [(row["status"], row["rounds"]) for row in rows] == [("measured", "2")] * 2
    assert not any((folder / ARTIFACTS).glob("*.part"))
