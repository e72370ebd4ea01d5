"""What a user can get wrong, as one sentence."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path


class BadInput(ValueError):
    """The command cannot be carried out as asked; the message is one sentence for the user."""


class StorageFull(OSError):
    """The disk took no more; the message is one sentence."""


@contextlib.contextmanager
def writing(path: Path, fault: type[BadInput | StorageFull] = StorageFull) -> Iterator[None]:
    """Raises `fault`, with one sentence, where a file or folder cannot be written."""
    try:
        yield
    except OSError as error:
        raise fault(f"{path} cannot be written: {error.strerror}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """ "nearest: a, b" for a misspelt name, else every known name."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"nearest: {', '.join(near)}" if near else f"known: {', '.join(names)}"
