"""`vitbench merge`: the shards of a run as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitbench.cli import fleet
from vitbench.errors import BadInput

Shards = Annotated[list[Path], typer.Argument(help="The folders of all shards, in any order.")]
Out = Annotated[Path, typer.Option(help="Folder of the whole run.")]


def merge(shards: Shards, *, out: Out) -> int:
    """Put the shards of a run together."""
    from vitbench.results import journal
    from vitbench.results import merge as merging

    runs = {}
    for folder in shards:
        if str(folder) in runs:
            raise BadInput(f"{folder} is given twice")
        runs[str(folder)] = journal.read(folder)
    whole = merging.merge(runs)
    merging.write(whole, out)
    return fleet.conclude(whole, out)
