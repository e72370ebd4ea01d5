"""The fingerprint: what a figure may depend on, and nothing about whose machine it is."""

from __future__ import annotations

import getpass
import json
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
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


def words_in(value: Any) -> Iterator[str]:
    """Every text in a nested structure."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from words_in(key)
            yield from words_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from words_in(inner)
    elif isinstance(value, str):
        yield value


def test_it_is_json(machine: dict[str, Any]) -> None:
    """The journal can hold it, and gives it back."""
    assert json.loads(json.dumps(machine, allow_nan=False)) == machine


def test_it_names_hardware_and_software(machine: dict[str, Any]) -> None:
    """CPU, cores, memory, versions, threads and what was set."""
    assert machine["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert machine["torch"]["version"] == torch.__version__
    assert machine["torch"]["threads"] == torch.get_num_threads()
    assert machine["cpu"]["cores_usable"] >= 1
    assert machine["cpu"]["model"]
    assert machine["memory_bytes"] > 2**28
    assert machine["device"] == "cpu"
    assert "gpu" not in machine
    assert set(machine["torch"]["sdpa_backends"]) <= {
        "flash",
        "mem_efficient",
        "cudnn",
        "math",
    }


def test_the_device_is_named_for_a_caption(machine: dict[str, Any]) -> None:
    """The CPU's model and its threads."""
    threads = f", {torch.get_num_threads()} threads"
    assert machine["device_name"] == machine["cpu"]["model"] + threads


def test_it_does_not_say_whose_machine_it_is(machine: dict[str, Any]) -> None:
    """No host name, no user name, no path: the file is meant to be published."""
    secrets = {platform.node(), getpass.getuser(), Path.home().name} - {"", "localhost"}
    for text in words_in(machine):
        assert not secrets & set(re.split(r"[^\w.-]+", text)), text
        assert not re.search(r"(^|\s)(/|[A-Z]:\\)", text), text


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


def test_a_foreign_repository_is_not_ours(tmp_path: Path) -> None:
    """Installed into somebody's project: their commit says nothing about our code."""
    repository(tmp_path)
    package = tmp_path / "site-packages"
    package.mkdir()
    (package / "environment.py").touch()
    assert git_state(package / "environment.py") is None


def repository(folder: Path) -> Callable[..., str]:
    """A new git repository with an empty commit; returns its git."""

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(folder), *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "theirs")
    return git


def test_a_plugin_is_known_by_its_content_and_commit(tmp_path: Path) -> None:
    """Its hash, and the commit of the repository that holds it, with what was changed since."""
    git = repository(tmp_path)
    plugin = tmp_path / "mine.py"
    plugin.write_text("a = 1\n")
    before = fingerprint(devices.connect("cpu"), {"mine": plugin})["plugins"]["mine"]
    assert before["git"] is None
    git("add", "mine.py")
    git("commit", "--quiet", "--message", "mine")
    kept = fingerprint(devices.connect("cpu"), {"mine": plugin})["plugins"]["mine"]
    assert kept == before | {"git": {"commit": git("rev-parse", "HEAD"), "dirty": False}}
    plugin.write_text("a = 2\n")
    changed = fingerprint(devices.connect("cpu"), {"mine": plugin})["plugins"]["mine"]
    assert changed["git"]["dirty"]
    assert changed["sha256"] != kept["sha256"]
