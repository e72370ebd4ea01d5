"""Latency against MACs: the front, and whom MACs misjudge."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from vitbench.analysis.flops_gap import Misjudged, gaps
from vitbench.analysis.groups import SUBJECT, settings
from vitbench.render import views
from vitbench.render.views import MOST, Shown
from vitbench.render.views._scatter import LATENCY, Axis, front_of, not_judged, scatter, words_of
from vitbench.render.views._settings import at_resolutions
from vitbench.results import frame

_MACS = Axis("MACs of one image", "macs")
# Behind the names of the pair that MACs misjudge most.
_SLOW, _FAST = "\u2193", "\u2191"


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each setting with several subjects."""
    rows = shown.rows[shown.rows["macs"] > 0]
    for suffix, group in itertools.islice(at_resolutions(rows), MOST):
        yield f"macs-latency{suffix}", _against(group, shown)


def _against(rows: pd.DataFrame, shown: Shown) -> Figure:
    first = rows.iloc[0]
    caption = (
        f"{words_of(first)}, {shown.caption_of(first)}. Line and bold: the Pareto front; "
        f"nothing is cheaper and faster, beyond noise.{not_judged(rows)}"
    )
    marks = [""] * len(rows)
    for gap in gaps(settings(frame.records(rows), SUBJECT)):
        low, high = gap.within.low, gap.within.high
        caption += f" Rank correlation: {gap.correlation:.2f} ({low:.2f} to {high:.2f})."
        if gap.misjudged is not None:
            signs = {gap.misjudged.slow["case"]: _SLOW, gap.misjudged.fast["case"]: _FAST}
            marks = [signs.get(case, "") for case in rows["case"]]
            caption += f" Most misjudged: {_sentence(rows, gap.misjudged)}."
    front = front_of(rows, "macs")
    return scatter(rows, _MACS, LATENCY, "Latency against MACs", caption, front=front, marks=marks)


def _sentence(rows: pd.DataFrame, pair: Misjudged) -> str:
    names = dict(zip(rows["case"], views.names_of(rows), strict=True))
    slow, fast = names[pair.slow["case"]], names[pair.fast["case"]]
    return (
        f"{slow} {_SLOW} has {1 / pair.macs:.2g} of the MACs of {fast} {_FAST} and takes "
        f"{pair.latency:.2g} times as long"
    )
