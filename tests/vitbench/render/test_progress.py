"""The progress bar: what it shows on a terminal, and what off it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.vitbench.examples import case, measured
from vitbench.cases.row import name_of
from vitbench.engine.runner import Progress
from vitbench.render.progress import ProgressBar
from vitbench.results.outcome import Failed, Outcome

STEPS: list[tuple[int, Outcome | None]] = [
    (0, None),
    (1, measured()),
    (1, None),
    (2, Failed("error", "ValueError: got [bold]")),
]


def shown(*, terminal: bool, quiet: bool = False) -> str:
    """What two cases of a run print."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=200, color_system=None)
    with ProgressBar(console, quiet=quiet) as bar:
        for done, outcome in STEPS:
            bar(Progress(case(), 0, done, 4, outcome))
    return file.getvalue()


def test_on_a_terminal() -> None:
    """Round, done and left, the case under way and the last figure; failures stay in view."""
    text = shown(terminal=True)
    for words in ("round 1", "2/4", "left", "msa 64px float32 batch 2", "msa: error"):
        assert words in text
    assert "error: ValueError: got [bold]" in text


@pytest.mark.parametrize(("terminal", "quiet"), [(False, False), (False, True), (True, True)])
def test_without_a_bar(terminal: bool, quiet: bool) -> None:
    """In a file or when asked to be quiet: one line for each failure, and no other."""
    lines = shown(terminal=terminal, quiet=quiet).splitlines()
    assert [line for line in lines if line.strip()] == [
        f"{name_of(case())}: error: ValueError: got [bold]"
    ]
