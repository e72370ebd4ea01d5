"""The files of a user's plugin: itself, and what it imports of the files beside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def beside(path: Path) -> tuple[Path, ...]:
    """The files beside `path` that it imports, directly or through each other, sorted.

    Read from their text, without running them; what is imported by a computed name is not seen.
    """
    found: set[Path] = set()
    waiting = [path.resolve()]
    while waiting:
        file = waiting.pop()
        for imported in _imported_beside(file):
            if imported not in found:
                found.add(imported)
                waiting.append(imported)
    return tuple(sorted(found - {path.resolve()}))


def _imported_beside(path: Path) -> Iterator[Path]:
    """The files in a file's folder, or below, that its import statements name."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files_of(path.parent, alias.name)
        elif isinstance(node, ast.ImportFrom):
            folder = path.parents[max(0, node.level - 1)]
            yield from _files_of(folder, node.module or "")
            for alias in node.names:
                yield from _files_of(folder, ".".join(filter(None, (node.module, alias.name))))


def _files_of(folder: Path, dotted: str) -> Iterator[Path]:
    """`a.py` or `a/__init__.py` for each part of a dotted name, where they are there."""
    place = folder
    for part in dotted.split(".") if dotted else ():
        place /= part
        for file in (place.with_name(f"{part}.py"), place / "__init__.py"):
            if file.is_file():
                yield file.resolve()
