"""The terminal that the commands print to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Wide enough for the tables where there is no terminal to ask."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=180, highlight=False)
