"""The command: every fault of the user's is one sentence on stderr and an exit status."""

from __future__ import annotations

import os
import sys

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Runs the command line and exits."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    from vitbench import cli
    from vitbench.cli.options import REPLACED
    from vitbench.errors import BadInput, StorageFull

    try:
        status = cli.app(arguments, prog_name="vitbench", standalone_mode=False)
    except BadInput as error:
        return _say(str(error), EXIT_USAGE)
    except StorageFull as error:
        return _say(str(error), EXIT_FAILED)
    except cli.UsageError as error:
        message = error.format_message().removesuffix(".")
        message = message[:1].lower() + message[1:]
        if message and error.ctx is not None:
            message += f"; `{error.ctx.command_path} --help` shows what it takes"
        option = getattr(error, "option_name", None)
        if option in REPLACED:
            message = f"{option} is now {REPLACED[option]}"
        return _say(message, error.exit_code) if message else error.exit_code  # help was printed
    except (KeyboardInterrupt, cli.Aborted):
        return _say("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # `vitbench list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status if isinstance(status, int) else 0


def _say(message: str, status: int) -> int:
    print(f"vitbench: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
