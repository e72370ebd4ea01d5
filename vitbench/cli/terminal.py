"""The terminal that the commands print to."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Wide enough for the tables where there is no terminal to ask."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=180, highlight=False)


def echo_json(data: Any) -> None:
    """Prints data as JSON, for a program."""
    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))
