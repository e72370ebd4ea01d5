"""Systems that lack what Linux has: nothing fails to import, and what cannot work says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_architecture import MODULES, PURE, TORCH_SIDE, edges, in_room
from tests.vitbench.examples import PLUGIN, case, ceilings, environment, measured, plan
from vitbench.engine import planning
from vitbench.errors import BadInput
from vitbench.instruments import host
from vitbench.results import journal as journals
from vitbench.results.csv import derive
from vitbench.results.journal import Run

# Takes away what a system lacks, after the libraries that know it better; then imports the modules
# and runs the commands, and tells their exit statuses and what they said.
_BARE = """
import contextlib, importlib, io, json, os, platform, subprocess, sys
asked = json.load(sys.stdin)
for name in asked["libraries"]:
    importlib.import_module(name)
import psutil
for name in asked["modules_absent"]:
    sys.modules[name] = None
for name in asked["os_absent"]:
    delattr(os, name)
psutil.cpu_count = lambda logical=True: os.cpu_count()  # it asks sysconf on Linux
platform.system = lambda: asked["system"]
def gone(path, *args, **kwargs):
    if str(path).startswith(("/proc/", "/sys/")):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return whole(path, *args, **kwargs)
whole, io.open = io.open, gone
for name in asked["modules"]:
    importlib.import_module(name)
from vitbench.__main__ import run
said = []
for words in asked["commands"]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        said.append([run(words), out.getvalue()])
from vitbench.instruments import host
host.place(1)
host.read()
json.dump({"commands": said, "facts": host.cpu_facts()}, sys.stdout)
"""

# All that runs outside of a worker: what does not import torch.
_MODULES = [
    name
    for name in MODULES
    if in_room(name, *PURE, "engine", "devices", "runtimes", "instruments")
    if not any(package == "torch" for _, _, package in edges(name, top_level=True))
    if name.rpartition(".")[2] not in TORCH_SIDE
]

_WINDOWS = {
    "system": "Windows",
    "libraries": ["numpy", "pandas", "psutil", "pydantic", "rich.console", "scipy.stats", "typer"],
    "modules": _MODULES,
    "modules_absent": ["fcntl", "resource", "pwd", "grp", "termios"],
    "os_absent": [
        *("fork", "killpg", "getsid", "setsid", "sysconf", "getuid", "geteuid", "pread"),
        *("getloadavg", "sched_getaffinity", "sched_setaffinity"),
    ],
}
_MACOS = {
    "system": "Darwin",
    "libraries": [],
    "modules": [],
    "modules_absent": [],
    "os_absent": ["sched_getaffinity", "sched_setaffinity"],
}


def on(system: dict[str, Any], *commands: list[str], folder: Path) -> dict[str, Any]:
    """What a process without these modules, functions and files does."""
    asked = system | {"commands": commands}
    done = subprocess.run(
        [sys.executable, "-c", _BARE],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_windows(tmp_path: Path) -> None:
    """Every module imports, and what was measured elsewhere is read; what would measure is one
    sentence and exit status 2, and leaves nothing."""
    run = Run(plan(rounds=2), environment(), ceilings())
    with journals.create(tmp_path / "run", run.plan) as journal:
        journal.append(journals.environment_entry(run.environment, run.ceilings))
        journal.append(journals.outcome_entry(case(), 0, measured()))
    run.outcomes[case().id, 0] = measured()
    derive(tmp_path / "run", run)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(f"{PLUGIN}# {name}")
    before = sorted(tmp_path.rglob("*"))
    compared = ["ab", "a", "b", "--plugin", "mine.py"]
    measuring = [["run"], ["run", "--resume", "run"], ["check", "run"], compared]
    answer = on(_WINDOWS, ["--version"], ["list"], ["table", "run"], *measuring, folder=tmp_path)
    for status, _ in answer["commands"][:3]:
        assert status == 0
    for words, (status, output) in zip(measuring, answer["commands"][3:], strict=True):
        assert (words, status) == (words, 2)
        assert "this is Windows: measure in WSL" in output
        assert output.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_macos(tmp_path: Path) -> None:
    """Without /proc, /sys and affinity a run is planned, on all cores, and no limit of memory."""
    words = ["run", "--device", "cpu", "--threads", "1", "--dry-run"]
    limited = [*words, "--memory-limit", "8GiB"]
    answer = on(_MACOS, words, limited, folder=tmp_path)
    assert answer["commands"][0][0] == 0
    status, output = answer["commands"][1]
    assert status == 2
    assert "--memory-limit needs Linux" in output
    facts = answer["facts"]
    assert facts["cores_usable"] == facts["cores_logical"]
    assert (facts["sockets"], facts["pinned_to"]) == (None, None)


def test_no_default_limit_of_memory_but_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS takes a limit and does not keep to it: none is set, and one that is asked for is bad
    input."""
    monkeypatch.setattr(host, "limits_memory", lambda: False)
    assert planning.make_plan(device="cpu").memory_limit_bytes is None
    with pytest.raises(BadInput, match="--memory-limit needs Linux"):
        planning.make_plan(device="cpu", memory_limit_bytes=2**33)
