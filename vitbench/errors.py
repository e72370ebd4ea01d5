"""What a user can get wrong, as one sentence."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# A line that ends in a file and a line number with a colon: what it announces is on other lines.
_LOCATION = re.compile(r"\S+\.\w+:\d+:\s*$")


class BadInput(ValueError):
    """The command cannot be carried out as asked; the message is one sentence for the user."""


class BrokenPlugin(BadInput):
    """A file of the user's own cannot be used; nothing was measured."""


class StorageFull(OSError):
    """The disk took no more; the message is one sentence."""


@contextlib.contextmanager
def writing(path: Path, fault: type[BadInput | StorageFull] = StorageFull) -> Iterator[None]:
    """Raises `fault`, with one sentence, where a file or folder cannot be written."""
    try:
        yield
    except StorageFull:  # it has its sentence already
        raise
    except OSError as error:
        raise fault(f"{path} cannot be written: {error.strerror or error}") from error


def check_writable(path: Path, fault: type[BadInput | StorageFull] = StorageFull) -> None:
    """Raises `fault` where a file cannot be written. Leaves no file where there was none."""
    with writing(path, fault):
        if path.is_fifo():  # whoever reads it would take this for the end
            return
        is_new = not os.path.lexists(path)
        path.open("a").close()
        if is_new:
            path.unlink()


def first_line(error: BaseException, limit: int = 500) -> str:
    """Of its message, at most so many characters and no colours: a row is for reading.

    It is the last line where the first is a location in C++ sources: contexts follow, then the
    reason.
    """
    text = str(error).encode(errors="backslashreplace").decode()  # names of files need not be text
    text = _COLOURS.sub("", text)
    lines = text.strip().splitlines()
    if not lines:
        return "no message"
    return lines[-1 if _LOCATION.search(lines[0]) else 0].strip()[:limit]


def causes(error: BaseException) -> list[BaseException]:
    """The error, what it was raised from or in the handling of, and so on: the root is the last."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        handled = None if cause.__suppress_context__ else cause.__context__
        # torch.compile keeps there what its backend raised.
        cause = getattr(cause, "inner_exception", None) or cause.__cause__ or handled
    return chain


def named(error: BaseException) -> str:
    """`ValueError: the first line of its message`, the same of its root, since a library that wraps
    an error says little of it, and the notes that were added to it; in one line."""
    root = causes(error)[-1]
    rest = [] if root is error else [f"raised from {type(root).__name__}: {first_line(root, 250)}"]
    rest += [note.partition("\n")[0][:200] for note in getattr(error, "__notes__", ())]
    ending = "; ".join(rest)[:400]
    text = f"{type(error).__name__}: {first_line(error, 500 - len(ending))}"
    return f"{text}; {ending}" if ending else text


def nearest(name: str, known: Iterable[str]) -> str:
    """ "nearest: a, b" for a misspelt name, else every known name."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"nearest: {', '.join(near)}" if near else f"known: {', '.join(names)}"
