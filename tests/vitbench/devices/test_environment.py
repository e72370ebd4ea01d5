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
from vitbench.devices import environment


@pytest.fixture(scope="module")
def fingerprint() -> dict[str, Any]:
    """Of this machine, on its CPU."""
    return environment.fingerprint("cpu")


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


def test_it_is_json(fingerprint: dict[str, Any]) -> None:
    """The journal can hold it, and gives it back."""
    assert json.loads(json.dumps(fingerprint, allow_nan=False)) == fingerprint


def test_it_names_hardware_and_software(fingerprint: dict[str, Any]) -> None:
    """CPU, cores, memory, versions, threads and what was set."""
    assert fingerprint["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert fingerprint["torch"]["version"] == torch.__version__
    assert fingerprint["torch"]["threads"] == torch.get_num_threads()
    assert fingerprint["cpu"]["cores_usable"] >= 1
    assert fingerprint["cpu"]["model"]
    assert fingerprint["memory_bytes"] > 2**28
    assert fingerprint["device"] == "cpu"
    assert "gpu" not in fingerprint
    assert set(fingerprint["torch"]["sdpa_backends"]) <= {
        "flash",
        "mem_efficient",
        "cudnn",
        "math",
    }


def test_the_device_is_named_for_a_caption(fingerprint: dict[str, Any]) -> None:
    """The CPU's model and its threads."""
    threads = f", {torch.get_num_threads()} threads"
    assert fingerprint["device_name"] == fingerprint["cpu"]["model"] + threads


def test_it_does_not_say_whose_machine_it_is(fingerprint: dict[str, Any]) -> None:
    """No host name, no user name, no path: the file is meant to be published."""
    secrets = {platform.node(), getpass.getuser(), Path.home().name} - {"", "localhost"}
    for text in words_in(fingerprint):
        assert not secrets & set(re.split(r"[^\w.-]+", text)), text
        assert not re.search(r"(^|\s)(/|[A-Z]:\\)", text), text


def test_the_commit_of_the_measured_code(fingerprint: dict[str, Any], tmp_path: Path) -> None:
    """The commit and whether the tree differs from it; None where there is no repository."""
    assert environment.git_state(tmp_path / "a.py") is None
    code = fingerprint["code"]
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
    assert environment.git_state(package / "environment.py") is None


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
    before = environment.fingerprint("cpu", {"mine": plugin})["plugins"]["mine"]
    assert before["git"] is None
    git("add", "mine.py")
    git("commit", "--quiet", "--message", "mine")
    kept = environment.fingerprint("cpu", {"mine": plugin})["plugins"]["mine"]
    assert kept == before | {"git": {"commit": git("rev-parse", "HEAD"), "dirty": False}}
    plugin.write_text("a = 2\n")
    changed = environment.fingerprint("cpu", {"mine": plugin})["plugins"]["mine"]
    assert changed["git"]["dirty"]
    assert changed["sha256"] != kept["sha256"]
