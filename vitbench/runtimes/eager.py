"""The module as it is, operator by operator."""

from __future__ import annotations

from pathlib import Path

from vitbench.runtimes import Prepared, Rules, Subject
from vitbench.runtimes.compiled import Watched

RULES = Rules(name="eager", summary="the module as it is, operator by operator")


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It runs everywhere."""
    return None


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """There is nothing to prepare."""
    return Watched(subject.calling(subject.runnable))
