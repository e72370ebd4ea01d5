"""Throughput against peak memory, and its front."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from matplotlib.figure import Figure

from vitbench.instruments import memory
from vitbench.render.views import MOST, Shown
from vitbench.render.views._scatter import PEAK, THROUGHPUT, front_of, not_judged, scatter, words_of
from vitbench.render.views._settings import at_resolutions


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each setting whose peaks compare with each other."""
    rows = shown.rows[shown.rows["peak_memory_bytes"] > 0]
    for suffix, group in itertools.islice(at_resolutions(rows), MOST):
        first = group.iloc[0]
        caption = (
            f"{words_of(first)}, {shown.caption_of(first)}. Line and bold: the Pareto front; "
            f"nothing is smaller and faster, beyond noise.{not_judged(group)}"
        )
        if (group["memory_source"] == memory.RESIDENT).any():
            caption += " Peaks are of the resident set, the runtime's own buffers included."
        front = front_of(group, "peak_memory_bytes")
        title = "Throughput against peak memory"
        yield (
            f"memory-frontier{suffix}",
            scatter(group, PEAK, THROUGHPUT, title, caption, front=front),
        )
