"""Latency against MACs: the front, and whom MACs misjudge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from vitbench.render.views import MOST, Shown
from vitbench.render.views._scatter import LATENCY, Axis, front_of, scatter, words_of
from vitbench.render.views._settings import at_resolutions

_MACS = Axis("MACs of one image", "macs")
# Ranks between MACs and latency that are told, and of how many.
_LEAST, _MOST = 3, 6


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each setting with several subjects."""
    rows = shown.rows[shown.rows["macs"] > 0]
    for suffix, group in itertools.islice(at_resolutions(rows), MOST):
        yield f"macs-latency{suffix}", _against(group, shown)


def _against(rows: pd.DataFrame, shown: Shown) -> Figure:
    first = rows.iloc[0]
    ranks = [rows[name].rank(method="min") for name in ("macs", "latency_s")]
    later = (ranks[1] - ranks[0]).astype(int)
    told = later[later.abs() >= _LEAST].abs().nlargest(_MOST).index
    marks = [f"{n:+d}".replace("-", "\u2212") if i in told else "" for i, n in later.items()]
    caption = (
        f"{words_of(first)}, {shown.caption_of(first)}. Line and bold: the Pareto front; "
        "nothing is cheaper and faster. +3: three ranks slower than by MACs, of those whom they "
        "misjudge most."
    )
    front = front_of(rows, _MACS, LATENCY)
    return scatter(rows, _MACS, LATENCY, "Latency against MACs", caption, front=front, marks=marks)
