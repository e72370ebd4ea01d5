"""The fingerprint: what a figure may depend on, and nothing about whose machine it is."""

from __future__ import annotations

import functools
import getpass
import json
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.vitbench.examples import ROOT
from vitbench.instruments import environment


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
    assert environment.git_state(tmp_path) is None
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
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    commit = ["commit", "--quiet", "--allow-empty", "--message", "theirs"]
    subprocess.run(["git", "-C", str(tmp_path), *identity, *commit], check=True)
    package = tmp_path / "site-packages"
    package.mkdir()
    (package / "__init__.py").touch()
    assert environment.git_state(package) is None


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """Puts back what configure changes."""
    threads = torch.get_num_threads()
    benchmark = torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.backends.cudnn.benchmark = benchmark


@pytest.mark.usefixtures("torch_settings")
def test_what_is_inherited_elsewhere_is_set() -> None:
    """Threads, denormals, TF32 and autotuning."""
    environment.configure(1)
    assert torch.get_num_threads() == 1
    assert not environment.tf32()
    assert torch.backends.cudnn.benchmark
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    assert float(smallest / 2) == 0.0
    assert environment.torch_facts()["tf32_matmul"] is False


@pytest.mark.parametrize(
    ("asked", "gpus", "found"),
    [
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda"),
        ("cpu", 2, "cpu"),
        ("cuda", 1, "cuda"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, asked: str, gpus: int, found: str) -> None:
    """`auto` is the best that is there; what is asked for is not replaced."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert environment.resolve_device(asked) == found


@pytest.mark.parametrize(
    ("asked", "gpus", "words"),
    [
        ("cuda", 0, "no CUDA device is there .*try --device cpu"),
        ("cuda:1", 1, "no CUDA device 'cuda:1' is there; known: cuda:0"),
        ("cuda:7", 2, "known: cuda:0, cuda:1"),
    ],
)
def test_devices_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpus: int, words: str
) -> None:
    """The sentence says what is there instead."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(LookupError, match=words):
        environment.resolve_device(asked)


def test_a_ceiling_is_the_best_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A neighbour that slows the first, small product a hundredfold does not set the ceiling."""
    sizes: list[int] = []

    def best_s(call: functools.partial[Any], device: str, seconds: float) -> float:
        sizes.append(call.args[0].shape[0])
        rate = 1e9 if len(sizes) == 1 else 100e9
        return 2 * sizes[-1] ** 3 / rate

    monkeypatch.setattr(environment, "_best_s", best_s)
    assert environment._product_rate("cpu", torch.float32, 0.3) == pytest.approx(100e9)


def test_ceilings_are_positive() -> None:
    """One rate for each dtype, and the bandwidth of a copy."""
    found = environment.ceilings("cpu", ("float32", "float64"), seconds=0.02)
    assert found["flops_rate"].keys() == {"float32", "float64"}
    assert min(found["flops_rate"].values()) > 0
    assert found["bandwidth"] > 0
