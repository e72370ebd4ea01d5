"""Machines of one run, compared by the control case that each measures in each round. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from vitbench.analysis import stats

# Seconds of the control case in one round, by node; None: it was not measured there.
Controls = Mapping[str, float | None]


def unlike(controls: Controls, floor: float) -> dict[str, float]:
    """The nodes whose control differs from the median of the nodes by more than the floor, a share,
    with how they differ: 0.2 takes 20% longer. None where no majority is alike: nothing tells then
    which are at fault."""
    known = {name: seconds for name, seconds in controls.items() if seconds is not None}
    if not known:
        return {}
    median = stats.median(list(known.values()))
    differs = {name: seconds / median - 1 for name, seconds in known.items()}
    apart = {name: share for name, share in differs.items() if abs(share) > floor}
    return apart if 2 * len(apart) < len(known) else {}


def spread(rounds: Iterable[Controls]) -> float | None:
    """Highest over lowest control of a round, less 1, of the round in which that is the most; None
    where a node has no control. One node has nothing to differ from: 0."""
    worst = 0.0
    for controls in rounds:
        seconds = list(controls.values())
        if len(seconds) < 2:
            continue
        known = [value for value in seconds if value is not None]
        if len(known) < len(seconds):
            return None
        worst = max(worst, max(known) / min(known) - 1)
    return worst
