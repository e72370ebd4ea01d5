"""Benchmarks of the engine itself; `make benchmarks` runs them, `make test` does not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.vitbench.examples import ROOT, vitbench
from vitbench.cases.case import Resolution

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is imported


@dataclass(frozen=True, slots=True)
class Options:
    """How much is measured.

    quick       a minute or two that show that everything works
    attentions  the mechanisms of `fused` and `profile`
    dtypes      of `fused`, `backbones` and `profile`
    sizes       the images of `fused`
    minutes     that `gate` records
    keep        a folder in which `gate` keeps each finished stage; an interrupted run goes on there
    """

    quick: bool
    attentions: Sequence[str]
    dtypes: Sequence[str]
    sizes: Sequence[Resolution]
    minutes: float
    keep: Path | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """The result of a benchmark.

    parts    paragraphs of Markdown: what was done, the figures, the goal, and whether it is met
    rows     every figure, for the CSV file
    figures  the few that others quote, by name
    draw     saves its chart as PNG; None where it has none
    """

    title: str
    parts: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    figures: Mapping[str, float] = field(default_factory=dict)
    draw: Callable[[Path], None] | None = None

    @property
    def text(self) -> str:
        """The paragraphs."""
        return "\n\n".join(self.parts)


def measured(*arguments: str) -> float:
    """Seconds of the real command. Raises RuntimeError where it fails."""
    start = time.monotonic()
    done = vitbench(ROOT, *arguments)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.monotonic() - start


def verdict(met: bool) -> str:
    """Whether a goal is met."""
    return "met" if met else "missed"
