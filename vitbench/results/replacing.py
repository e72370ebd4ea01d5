"""Files that are replaced as a whole: a reader sees the old one or the new one. Pure, no torch."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes the place of another when it is complete."""
    with (
        _beside(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file


def replace_bytes(path: Path, data: bytes) -> None:
    """The same where all of the file is at hand."""
    with _beside(path) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of a file; of a link, that of its target. What is no
    file, such as /dev/stdout, is written itself."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        yield path
        return
    partial = target.with_name(f".{target.name[:200]}.{os.getpid()}")
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
