"""Imports a Python file from anywhere, and what it imports of the files beside it."""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file as Python reads it: a byte-order mark and a declared encoding
    count. Raises OSError, SyntaxError, ValueError, RecursionError.
    """
    return ast.parse(path.read_bytes(), filename=str(path))


class _Beside(MetaPathFinder):
    """Finds what a file imports by absolute names in folders of its own, before other places.

    The standard library comes first all the same: a neighbour called `random` is not torch's.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = folders
        self._names: set[str] = set()
        self._modules: dict[str, ModuleType] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is not None or fullname in sys.stdlib_module_names:
            return None
        spec = PathFinder.find_spec(fullname, self._folders)
        if spec is None or (spec.loader is None and self._is_elsewhere(fullname)):
            return None
        self._names.add(fullname)
        return spec

    def _is_elsewhere(self, name: str) -> bool:
        """Whether a package stands elsewhere whose name a folder without __init__.py has here."""
        others = (finder for finder in sys.meta_path if finder is not self)
        return any(finder.find_spec(name, None) is not None for finder in others)

    def show(self) -> None:
        """Makes the files importable, those imported before as they were."""
        sys.meta_path.insert(0, self)
        sys.modules.update(self._modules)

    def hide(self) -> None:
        """Takes the files and their modules out of Python's sight."""
        sys.meta_path.remove(self)
        for name in [name for name in sys.modules if name.partition(".")[0] in self._names]:
            self._modules[name] = sys.modules.pop(name)


_in_sight: list[_Beside] = []


@functools.cache
def _beside(folder: Path) -> _Beside:
    top = _top_package(folder)
    return _Beside([str(folder), *([] if top is None else [str(top.parent)])])


@contextlib.contextmanager
def importable(path: Path) -> Iterator[None]:
    """While this lasts, the file can import what lies beside it, as when Python runs it.

    Files of one folder share their neighbours; those of two folders never meet, also where they
    have the same names.
    """
    beside = _beside(path.resolve().parent)
    outer = _in_sight[-1] if _in_sight else None
    if beside is outer:
        yield
        return
    if outer is not None:
        outer.hide()
    beside.show()
    _in_sight.append(beside)
    try:
        yield
    finally:
        _in_sight.pop()
        beside.hide()
        if outer is not None:
            outer.show()


def import_file(path: Path) -> ModuleType:
    """Imports one Python file under a name of its own, and keeps it in sys.modules.

    A file that imports relatively is a part of its package: of the folders with an __init__.py
    above it, or else of its folder. Raises whatever the file raises.
    """
    with importable(path):
        resolved = path.resolve()
        if _imports_relatively(resolved):
            return _import_in_package(resolved)
        return _import_as(f"attention_plugin_{path.stem}_{_digest(resolved)}", path)


def _imports_relatively(path: Path) -> bool:
    try:
        tree = parse(path)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False  # importing it says what is wrong
    return any(isinstance(node, ast.ImportFrom) and node.level > 0 for node in ast.walk(tree))


def _top_package(folder: Path) -> Path | None:
    """The outermost of the packages that a folder is in; None where it is none."""
    top = None
    for package in (folder, *folder.parents):
        if not (package / "__init__.py").is_file():
            break
        top = package
    return top


def _import_in_package(path: Path) -> ModuleType:
    top = _top_package(path.parent) or path.parent
    package = f"attention_package_{top.name}_{_digest(top)}".replace(".", "_")
    if package not in sys.modules:
        _import_as(package, top / "__init__.py", [str(top)])
    inside = path.relative_to(top).with_suffix("").parts
    return importlib.import_module(".".join((package, *inside)))


def _import_as(name: str, path: Path, folders: list[str] | None = None) -> ModuleType:
    """Imports a file, or a package of these folders, under this name."""
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folders)
    if folders is not None and not path.is_file():
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = folders
    if spec is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if spec.loader is not None:
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:8]


def place_of(error: BaseException, path: Path) -> str:
    """`my_layers.py:12`, where the file or one beside it raised this last; "" where none did."""
    folder, place = path.resolve().parent, ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(folder) and "site-packages" not in file.parts:
            place = f"{file.relative_to(folder)}:{line}"
    return place
