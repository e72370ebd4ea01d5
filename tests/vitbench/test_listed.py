"""A file that a user puts into runtimes/, devices/ or instruments/, where it cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vitbench import devices, instruments, listed, runtimes
from vitbench.errors import BadInput


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `room` of a user's own files."""
    folder = tmp_path / "room"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("room", None)  # of another test
    return folder


def test_names(room: Path) -> None:
    """Those without an underscore; nothing is imported."""
    for name in ("_shared", "mine"):
        (room / f"{name}.py").write_text("raise ValueError\n")
    assert listed.names([str(room)]) == ["mine"]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (
            "one",
            "import nothing_of_this_name",
            "cannot be imported: ModuleNotFoundError: No",
        ),
        ("two", "def", "cannot be imported: SyntaxError"),
        ("three", "raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        ("four", "x = 1", "must define RULES"),
    ],
)
def test_a_file_that_cannot_be_used(room: Path, name: str, text: str, reason: str) -> None:
    """One sentence with its name."""
    (room / f"{name}.py").write_text(text)
    with pytest.raises(BadInput, match=f"room/{name}.py {reason}"):
        listed.load("room", name, needs="RULES")


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file that does not import, in each of the three rooms."""
    (tmp_path / "mine.py").write_text("import nothing_of_this_name\n")
    cached = (devices.names, devices._module, runtimes._runtimes, instruments._instruments)
    for package in (devices, runtimes, instruments):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.parametrize("package", [devices, runtimes, instruments])
def test_each_room_names_the_file(broken: None, package: object) -> None:
    """Wherever the names are listed, as the options of every command do."""
    room = package.__name__.replace(".", "/")  # type: ignore[attr-defined] # a module has a name
    with pytest.raises(BadInput, match=f"{room}/mine.py cannot be imported"):
        package.names()  # type: ignore[attr-defined] # each of the three has it
