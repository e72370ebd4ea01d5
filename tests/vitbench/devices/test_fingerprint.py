"""The fingerprint: what a figure may depend on, and nothing about whose machine it is."""

from __future__ import annotations

import getpass
import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.vitbench.examples import ROOT
from vitbench import devices
from vitbench.devices._fingerprint import fingerprint, git_state


@pytest.fixture(scope="module")
def machine() -> dict[str, Any]:
    """Of this machine, on its CPU."""
    return fingerprint(devices.connect("cpu"))


def test_it_names_hardware_and_software(machine: dict[str, Any]) -> None:
    """CPU, cores, memory, versions, threads and what was set, as JSON that the journal can hold."""
    assert json.loads(json.dumps(machine, allow_nan=False)) == machine
    assert machine["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert machine["torch"]["version"] == torch.__version__
    assert machine["torch"]["threads"] == torch.get_num_threads()
    assert machine["cpu"]["cores_usable"] >= 1
    assert machine["cpu"]["model"]
    assert machine["memory_bytes"] > 2**28
    assert machine["device"] == "cpu"
    assert "gpu" not in machine
    assert set(machine["torch"]["sdpa_backends"]) <= {"flash", "mem_efficient", "cudnn", "math"}
    count = torch.get_num_threads()
    threads = "1 thread" if count == 1 else f"{count} threads"
    assert machine["device_name"] == f"{machine['cpu']['model']}, {threads}"


def test_it_does_not_say_whose_machine_it_is(machine: dict[str, Any]) -> None:
    """No host name, no user name, no path: the file is meant to be published."""
    secrets = {platform.node(), getpass.getuser(), Path.home().name} - {"", "localhost"}
    text = json.dumps(machine)
    assert not secrets & set(re.split(r"[^\w.-]+", text))
    assert not re.search(r'["\s](/|[A-Z]:\\)', text)


def test_the_commit_of_the_measured_code(machine: dict[str, Any], tmp_path: Path) -> None:
    """The commit and whether the tree differs from it; None where there is no repository."""
    assert git_state(tmp_path / "a.py") is None
    code = machine["code"]
    if code is None:
        pytest.skip("these tests do not run in a git checkout")
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert code["commit"] == head
    assert isinstance(code["dirty"], bool)


def test_a_plugin_is_known_by_its_content_and_commit(tmp_path: Path) -> None:
    """Its hash, and the commit of the repository that holds it, with what was changed since."""
    plugin = tmp_path / "mine.py"
    plugin.write_text("a = 1\n")

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def facts() -> dict[str, Any]:
        return fingerprint(devices.connect("cpu"), {"mine": plugin})["plugins"]["mine"]

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "theirs")
    before = facts()
    assert before["git"] is None  # their commit says nothing about a file that is not in it
    git("add", "mine.py")
    git("commit", "--quiet", "--message", "mine")
    committed = facts()
    assert committed == before | {"git": {"commit": git("rev-parse", "HEAD"), "dirty": False}}
    plugin.write_text("a = 2\n")
    changed = facts()
    assert changed["git"]["dirty"]
    assert changed["sha256"] != committed["sha256"]


def test_variables_that_change_how_fast_libraries_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Are there, without the user's paths; what else the environment holds is nobody's business."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("LD_PRELOAD", "/opt/me/libjemalloc.so.2:/opt/me/libiomp5.so")
    monkeypatch.setenv("MALLOC_CONF", "prof_prefix:/opt/me/heap,narenas:1")
    monkeypatch.setenv("SECRET", "hunter2")
    variables = fingerprint(devices.connect("cpu"))["variables"]
    assert variables["OMP_WAIT_POLICY"] == "passive"
    assert variables["LD_PRELOAD"] == "libjemalloc.so.2:libiomp5.so"
    assert variables["MALLOC_CONF"] == "prof_prefix:heap,narenas:1"
    assert "SECRET" not in variables
