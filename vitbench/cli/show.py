"""`vitbench list`, `plot`, `columns`: what there is and what was measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

import attentions
from vitbench.cli import terminal
from vitbench.errors import BadInput


def list_(
    suites: Annotated[bool, typer.Option("--suites", help="List the suites instead.")] = False,
) -> None:
    """List the mechanisms, or the suites."""
    from vitbench import suite
    from vitbench.render import tables

    if suites:
        rows = [(name, title) for name, title in suite.describe().items()]
        terminal.console().print(tables.listing(("suite", "what it sweeps"), rows))
        return
    mechanisms = []
    for name in attentions.names():
        outline = attentions.outline(attentions.path_of(name))
        words = [outline.words.get(field, "") for field in ("size_rule", "cost", "kernels")]
        impls = ", ".join(outline.impls or ("?",))
        mechanisms.append((name, str(outline.year or ""), impls, *words, outline.summary))
    header = ("attention", "year", "impls", "size rule", "cost", "kernels", "what it is")
    terminal.console().print(tables.listing(header, mechanisms))
    typer.echo("\ncost: multiply-accumulates, N tokens, C channels; `vitbench info NAME` says more")


def plot(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to; FOLDER/plots by default.")] = None,
) -> None:
    """Draw the charts of a run again."""
    from vitbench import session

    if not os.path.isdir(folder):
        raise BadInput(f"{folder} is not a run folder")
    for path in session.draw(folder, out):
        typer.echo(path)


def columns(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Explain the columns of records.csv."""
    from vitbench.record import COLUMNS
    from vitbench.render import tables

    rows = [(column.name, column.unit, column.meaning) for column in COLUMNS]
    header = ("column", "unit", "meaning")
    if markdown:
        typer.echo(tables.markdown(header, [(f"`{name}`", *rest) for name, *rest in rows]))
    else:
        terminal.console().print(tables.listing(header, rows))
