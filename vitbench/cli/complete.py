"""Shell completion of names. Runs at each press of the tab key: no torch, no reading of CSVs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attentions
from vitbench.cases.axes import Axis


def values(axis: Axis) -> Callable[[str], Iterator[str]]:
    """Completes the last of a comma-separated list of values of an axis."""

    def complete(incomplete: str) -> Iterator[str]:
        before, comma, last = incomplete.rpartition(",")
        known = axis.choices or axis.examples
        yield from (f"{before}{comma}{name}" for name in known if name.startswith(last))

    return complete


def mechanism(incomplete: str) -> Iterator[str]:
    """Completes one mechanism's name."""
    yield from (name for name in attentions.names() if name.startswith(incomplete))


def suites(incomplete: str) -> Iterator[str]:
    """Completes a suite's name."""
    from vitbench.cases import suite

    yield from (name for name in suite.names() if name.startswith(incomplete))


def params(incomplete: str) -> Iterator[str]:
    """Completes `hilo.alpha=` and its like."""
    for name in attentions.names():
        keywords = attentions.outline(attentions.path_of(name)).keywords or {}
        for key in keywords:
            if f"{name}.{key}=".startswith(incomplete):
                yield f"{name}.{key}="
