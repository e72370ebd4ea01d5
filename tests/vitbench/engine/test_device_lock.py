"""One vitbench at a time on an accelerator: who waits, and what it says."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.vitbench.engine.workers import Workers
from vitbench.engine import device_lock, messages, pool
from vitbench.engine.device_lock import DeviceLock
from vitbench.engine.pool import Pool, WorkerSpec


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the locks are."""
    monkeypatch.setattr(device_lock, "FOLDER", tmp_path)
    return tmp_path


@pytest.fixture
def lock() -> Iterator[DeviceLock]:
    """Of another vitbench: files that were opened apart exclude each other in one process too."""
    with DeviceLock() as held:
        yield held


def test_a_second_vitbench_waits(
    lock: DeviceLock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With one sentence, until the first has ended, and tells how long that was; then it is itself
    the one that is waited for."""
    lock.acquire("GPU-1")
    slept: list[float] = []
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(30.0)
        if len(slept) == 2:
            lock.__exit__()

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: sum(slept))
    monkeypatch.setattr(device_lock, "time", clock)
    with caplog.at_level(logging.WARNING), DeviceLock(waited.append) as second:
        second.acquire("GPU-1")
        second.acquire("GPU-1")  # its own
    (record,) = caplog.records
    sentence = f"another vitbench (process {os.getpid()}) measures on GPU-1: waiting"
    assert sentence in record.getMessage()
    assert waited == [60.0]
    with DeviceLock(waited.append) as third:  # nobody is there any more
        third.acquire("GPU-1")
    assert waited == [60.0]


@pytest.mark.parametrize("identity", ["GPU-2", "MIG-GPU-1/1/0"])
def test_other_devices_are_free(
    lock: DeviceLock, caplog: pytest.LogCaptureFixture, identity: str
) -> None:
    """Another GPU, and a part of one."""
    lock.acquire("GPU-1")
    with DeviceLock() as second:
        second.acquire(identity)
    assert not caplog.records


def test_without_a_folder_nothing_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """A machine where no file can be written measures all the same."""
    monkeypatch.setattr(device_lock, "FOLDER", folder / "gone")
    with DeviceLock() as held:
        held.acquire("GPU-1")


@pytest.mark.parametrize(
    ("device", "identity", "name"),
    [("cuda", "GPU-1234", "GPU-1234"), ("mps", "", "mps"), ("cpu", "", None)],
)
def test_workers_of_a_run_share_a_device(
    monkeypatch: pytest.MonkeyPatch,
    lock: DeviceLock,
    folder: Path,
    device: str,
    identity: str,
    name: str | None,
) -> None:
    """The lock is the run's: it is taken before a worker is set up, once for all of its workers,
    by the name of a device that is the machine's only one, and none is taken of the host."""
    workers = Workers()
    workers.identity = identity
    monkeypatch.setattr(pool, "Child", workers.make)
    spec = WorkerSpec(lambda: messages.SetUp(device=device))
    with Pool({"base": spec, "head": spec}, 1.0, lock) as both:
        both.start("base", "head")
    assert workers.identified == ([] if name is None else [1, 2])
    found = [path.name for path in folder.glob("*.lock")]
    assert found == ([] if name is None else [f"vitbench-{name}.lock"])
