"""The terminal that the commands print to: what it cannot show, and where it takes no more."""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from vitbench.errors import StorageFull

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from rich.console import Console

# What stands for a character that the terminal's encoding lacks; for any other its escape.
_ASCII = {"±": "+/-", "\N{MULTIPLICATION SIGN}": "x", "≥": ">=", "≤": "<=", "°": "deg ", "…": "..."}
_LEAST_WIDTH = 20


def _degraded(error: UnicodeError) -> tuple[str | bytes, int]:
    """The next character, as the terminal can show it: a handler of encoding errors."""
    if isinstance(error, UnicodeEncodeError):
        end = error.start + 1
        if (text := _ASCII.get(error.object[error.start : end])) is not None:
            return text, end
    return codecs.backslashreplace_errors(error)


class _Stdout(io.FileIO):
    """Standard output. Where its reader has left (`| head`), the rest goes nowhere, and the command
    ends as it would have.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        """Raises StorageFull where the output takes no more, once."""
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if isinstance(error, BrokenPipeError):
                return memoryview(data).nbytes
            reason = f"standard output cannot be written: {error.strerror}"
            raise StorageFull(reason) from None


def prepare() -> None:
    """Makes standard output take every character, and answer for what it cannot write.

    Raises StorageFull where it is closed.
    """
    codecs.register_error("degraded", _degraded)
    if sys.stdout is None:
        raise StorageFull("standard output cannot be written: it is closed")
    if (real := sys.__stdout__) is not None and sys.stdout is real:
        real.flush()
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(_Stdout(real.fileno(), "w", closefd=False)),
            encoding=real.encoding,
            line_buffering=real.line_buffering,
        )
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="degraded")


def console(*, stderr: bool = False) -> Console:
    """Prints text as it is, square brackets and colons too. Wide enough for the tables where there
    is no terminal to ask, or one that says it has no columns.
    """
    from rich.console import Console

    plain: Any = {"highlight": False, "markup": False, "emoji": False, "stderr": stderr}
    console = Console(**plain)
    if not console.is_terminal:
        return Console(width=180, **plain)
    return console if console.width >= _LEAST_WIDTH else Console(width=_LEAST_WIDTH, **plain)


def echo_json(data: Any) -> None:
    """Prints data as JSON, for a program: in ASCII where the output takes no more than that."""
    is_unicode = sys.stdout.encoding.lower().startswith("utf")
    print(json.dumps(data, indent=2, ensure_ascii=not is_unicode))
