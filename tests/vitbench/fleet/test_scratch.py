"""A node's folder goes with its process, or with the next node."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from vitbench.fleet.scratch import Scratch


def _holds(parent: str, said: Connection) -> None:
    """Makes a folder, says where, and waits to be killed."""
    pytest.MonkeyPatch().setattr("tempfile.tempdir", parent)
    held = Scratch()
    (held.path / "artifact").write_text("large")
    said.send(str(held.path))
    said.recv()


def test_what_a_killed_process_left_goes_with_the_next_and_what_is_in_use_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    other = context.Process(target=_holds, args=(str(tmp_path), there))
    other.start()
    try:
        folder = Path(here.recv())
        first = Scratch()
        assert folder.is_dir()
    finally:
        other.kill()
        other.join()
    second = Scratch()
    assert not folder.exists()
    assert {*tmp_path.iterdir()} == {first.path, second.path}
    first.remove()
    first.remove()
    second.remove()
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_is_no_node_s_own_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "vitbench-node-notes").mkdir()
    (tmp_path / "vitbench-node-file").write_text("a file")
    Scratch().remove()
    assert len([*tmp_path.iterdir()]) == 2
