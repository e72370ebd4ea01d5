"""The command: every fault of the user's is one sentence on stderr and an exit status."""

from __future__ import annotations

import gc
import os
import sys
from types import ModuleType

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
# That are made until Python looks for cycles among them. By default it looks so often that a
# hundred thousand verdicts take half as long again.
_OBJECTS = 50_000


def main() -> None:
    """Runs the command line and exits."""
    _fill_closed_streams()
    gc.set_threshold(_OBJECTS)
    status = run(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        status = _say(_sentence(error), EXIT_FAILED)
    sys.exit(status)


def run(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    from vitbench.errors import BadInput

    try:
        from vitbench import cli  # reads the files of devices/, runtimes/ and instruments/

        return _run(cli, arguments)
    except BadInput as error:
        return _say(str(error), EXIT_USAGE)
    except OSError as error:
        return _say(_sentence(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return _say("interrupted", EXIT_INTERRUPTED)


def _run(cli: ModuleType, arguments: list[str]) -> int:
    """Raises BadInput, OSError, KeyboardInterrupt."""
    from vitbench.cli import terminal
    from vitbench.cli.options import REPLACED

    terminal.prepare()
    try:
        status = cli.app(arguments, prog_name="vitbench", standalone_mode=False)
    except cli.UsageError as error:
        message = error.format_message().removesuffix(".")
        message = message[:1].lower() + message[1:]
        if message and error.ctx is not None:
            message += f"; `{error.ctx.command_path} --help` shows what it takes"
        option = getattr(error, "option_name", None)
        if option in REPLACED:
            message = f"{option} is now {REPLACED[option]}"
        return _say(message, error.exit_code) if message else error.exit_code  # help was printed
    except cli.Aborted:
        return _say("interrupted", EXIT_INTERRUPTED)
    return status if isinstance(status, int) else 0


def _sentence(error: OSError) -> str:
    """What the system refused, and of which file."""
    if error.strerror is None:
        return " ".join(str(error).split())
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def _say(message: str, status: int) -> int:
    if sys.stderr is not None:  # it may be closed
        # A name that the user gave may hold a line break, or what a terminal obeys.
        shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
        print(f"vitbench: {shown}", file=sys.stderr)
    return status


def _fill_closed_streams() -> None:
    """Opens /dev/null for every standard stream that is closed: a file that is opened later must
    not take its number.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


if __name__ == "__main__":
    main()
