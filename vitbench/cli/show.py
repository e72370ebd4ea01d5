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
    backbones: Annotated[
        bool, typer.Option("--backbones", help="List the whole models instead.")
    ] = False,
) -> None:
    """List the mechanisms, the suites or the whole models."""
    from vitbench.cases import suite
    from vitbench.render import tables
    from vitbench.subjects.backbones import LITV2, RIVALS

    if suites and backbones:
        raise BadInput("--suites and --backbones are two lists: ask for one")
    if backbones:
        models = [(name, "vitbench") for name in LITV2]
        models += [(name, f"timm:{timm_name}") for name, timm_name in RIVALS.items()]
        terminal.console().print(tables.listing(("backbone", "whose"), models))
        typer.echo(
            "\nand timm:NAME, module:factory; litv2_s[attention=NAME] has that mechanism in stage 3"
        )
        return

    if suites:
        sweeps = list(suite.describe().items())
        terminal.console().print(tables.listing(("suite", "what it sweeps"), sweeps))
        return
    header = ("attention", "year", "size rule", "kernels", "cost", "what it is")
    rows = [_facts(name) for name in attentions.names()]
    terminal.console().print(tables.listing(header, rows))
    typer.echo(
        "\ncost: multiply-accumulates, N tokens, C channels; SDPA: scaled_dot_product_attention; "
        "`vitbench info NAME` says more"
    )


def _facts(name: str) -> tuple[str, ...]:
    """A mechanism's line, read without importing torch."""
    outline = attentions.outline(attentions.path_of(name))
    kernels = outline.words.get("kernels", "").replace("scaled_dot_product_attention", "SDPA")
    if "fused" not in (outline.impls or ()):
        kernels = "eager only"
    year, rule = str(outline.year or ""), outline.words.get("size_rule", "any")
    return name, year, rule, kernels, outline.words.get("cost", ""), outline.summary


def plot(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to; FOLDER/plots by default.")] = None,
) -> None:
    """Draw the charts of a run again."""
    from vitbench.render import charts

    if not os.path.isdir(folder):
        raise BadInput(f"{folder} is not a run folder")
    for path in charts.draw(folder, out):
        typer.echo(path)


def columns(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Explain the columns of records.csv."""
    from vitbench.render import tables
    from vitbench.results.columns import COLUMNS

    rows = [(column.name, column.unit, column.meaning) for column in COLUMNS]
    header = ("column", "unit", "meaning")
    if markdown:
        typer.echo(tables.markdown(header, [(f"`{name}`", *rest) for name, *rest in rows]))
    else:
        terminal.console().print(tables.listing(header, rows))
