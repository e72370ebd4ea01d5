"""Markdown: the table of a run, for issues and pull requests."""

from __future__ import annotations

from collections.abc import Mapping

from vitbench.render import tables
from vitbench.render.export import Format, Results

FORMAT = Format(
    name="markdown", summary="the table of `vitbench table`, for pull requests", suffix=".md"
)


def render(results: Results) -> Mapping[str, bytes]:
    """The same table as `vitbench table --markdown` prints."""
    return {"": (tables.results_markdown(results.records) + "\n").encode()}
