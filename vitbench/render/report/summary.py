"""The report in short, as Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from vitbench.render import tables, text
from vitbench.render.report.contents import Contents
from vitbench.render.report.sources import Source

MARK = "<!-- Written by vitbench report. -->"
# What a reader of a pull request looks through, and what a comment there holds.
_MOST_ROWS, _MOST_SETTINGS, _MOST_FINDINGS, _MOST_REASONS = 50, 6, 10, 20


def markdown(sources: Sequence[Source], told: Contents) -> str:
    """Sentences first, then the fastest, the results and what was not measured."""
    lines = [
        MARK,
        f"### vitbench: {text.markdown(told.title)}",
        "",
        f"{text.markdown(told.counts)}.",
        *(["", f"All of this: {text.markdown(told.shared)}."] if told.shared else []),
    ]
    for title, sentences in told.tuned[:_MOST_FINDINGS]:
        lines += ["", f"The best setting of {text.markdown(title)}:", ""]
        lines += [f"- {text.markdown(sentence)}" for sentence in sentences]
    lines += _rest(told.tuned, _MOST_FINDINGS, "answers")
    for matrix in told.matrices[:_MOST_SETTINGS]:
        header = ["image, pixels", *(f"fastest in {name}" for name in matrix.runtimes)]
        rows = [
            [size, *(text.markdown(f"{c.name}, {c.speed}") if c and c.name else "" for c in cells)]
            for size, cells in matrix.rows
        ]
        lines += ["", text.markdown(matrix.title), ""]
        lines += [f"- {text.markdown(sentence)}" for sentence in matrix.sentences()]
        lines += ["", tables.markdown(header, rows)]
    lines += _rest(told.matrices, _MOST_SETTINGS, "settings")
    for title, sentences in told.findings[:_MOST_FINDINGS]:
        lines += ["", f"{text.markdown(title)}:", ""]
        lines += [f"- {text.markdown(sentence)}" for sentence in sentences]
    lines += _rest(told.findings, _MOST_FINDINGS, "groups of findings")
    for one in told.versus:
        lines += ["", f"{text.markdown(f'{one.name} against {one.base}')}: {one.sentence}."]
    for source in sources:
        shown = list(source.records[:_MOST_ROWS])
        rest = len(source.records) - len(shown)
        more = f", the first {len(shown)} of {len(source.records)}" if rest else ""
        lines += [
            "",
            f"<details><summary>{text.markdown(source.name)}: results{more}</summary>",
            "",
        ]
        lines += [tables.results_markdown(shown), "", "</details>"]
    if told.failures:
        lines += ["", "Not measured:", ""]
        lines += [
            f"- {len(names)} {status}: {text.markdown(message)}"
            for status, message, names in told.failures[:_MOST_REASONS]
        ]
        lines += _rest(told.failures, _MOST_REASONS, "reasons")
    return "\n".join([*lines, ""])


def _rest(told: Sequence[object], most: int, what: str) -> list[str]:
    """How many more there are."""
    return ["", f"{len(told) - most} more {what} are in the report."] if len(told) > most else []
