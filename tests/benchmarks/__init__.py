"""Benchmarks of the engine itself; `make benchmarks` runs them, `make test` does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is imported


@dataclass(frozen=True, slots=True)
class Section:
    """What a benchmark found.

    text     Markdown: what was done, the figures, the goal, and whether it is met
    rows     every figure, for the CSV file
    figures  the few that others quote, by name
    draw     saves its chart as PNG; None where it has none
    """

    title: str
    text: str
    rows: Sequence[Mapping[str, Any]]
    figures: Mapping[str, float] = field(default_factory=dict)
    draw: Callable[[Path], None] | None = None


def vitbench(*words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The real command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vitbench", *words],
        cwd=cwd or ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
