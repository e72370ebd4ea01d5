"""`vitbench export`: a run in the formats that other tools read."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from vitbench.cli import options
from vitbench.errors import BadInput


def _formats(incomplete: str) -> Iterator[str]:
    from vitbench.render import export as exports

    yield from (name for name in exports.names() if name.startswith(incomplete))


def export(
    run: options.Records,
    chosen: Annotated[
        str,
        typer.Option(
            "--format",
            help="`vitbench list --formats` shows them.",
            autocompletion=_formats,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default a text is printed.")
    ] = None,
) -> None:
    """Write a run in a format that another tool reads."""
    from vitbench.render import export as exports

    about = exports.load(chosen).FORMAT
    results = exports.Results.read(run)
    files = exports.render(results, chosen)
    if out is None and (not about.is_text or len(files) > 1):
        what = f"{len(files)} files" if len(files) > 1 else "no text"
        raise BadInput(f"--format {chosen} is {what}: name it with --out NAME{about.suffix}")
    if out is None:
        (content,) = files.values()
        sys.stdout.flush()
        sys.stdout.buffer.write(content)  # in UTF-8, whatever the terminal's encoding is
        sys.stdout.flush()
    else:
        for path in exports.write(files, out):
            print(path)
    failed = results.failed()
    if failed and not about.shows_failures:
        counts = Counter(str(record["status"]) for record in failed)
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        typer.echo(
            f"{chosen} has no place for the {len(failed)} of {len(results.records)} rows without "
            f"a time: {kinds}",
            err=True,
        )
