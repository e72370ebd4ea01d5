"""Plain tables of words, for commands that read no results: nothing here imports numpy."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text


def plan(rows: Sequence[tuple[str, str]]) -> Table:
    """A table of two columns: a name and what it says."""
    table = listing(("", ""), rows)
    table.show_header, table.columns[0].style = False, "bold"
    return table


def listing(
    header: Sequence[str], rows: Sequence[Sequence[str | Text]], right: Sequence[str] = ()
) -> Table:
    """A plain table; square brackets are square brackets. Columns named in `right` hold figures."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in header:
        table.add_column(title, overflow="fold", justify="right" if title in right else "left")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def markdown(
    header: Sequence[str], rows: Sequence[Sequence[str]], aligned: Sequence[str] | None = None
) -> str:
    """A table as GitHub's Markdown; `aligned` is its second line, cell by cell."""
    lines = [header, aligned or ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
