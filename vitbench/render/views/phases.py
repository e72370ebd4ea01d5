"""Where a call's time goes: projections, attention, moving data, as shares of its latency."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from vitbench.instruments.phases import PHASES
from vitbench.render import style, units, views
from vitbench.render.views import MOST, Shown
from vitbench.render.views._scatter import words_of
from vitbench.render.views._settings import at_one_resolution, settings

# From dark to light within a family: products with weights, moving, attention, the rest.
_COLOURS: Mapping[str, str] = {
    "projections": "#0072B2",
    "output": "#56B4E9",
    "convolutions": "#7A5FBF",
    "partition": "#E69F00",
    "QK": "#222222",
    "softmax": "#8A8A8A",
    "AV": "#555555",
    "kernel": "#009E73",
    "elementwise": "#DDDDDD",
}
_ORDER = sorted(PHASES, key=list(_COLOURS).index)
_LIGHT = {"output", "partition", "elementwise", "softmax"}
_LEAST_TOLD = 0.1


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each setting with layers whose operators were timed."""
    rows = shown.rows[(shown.rows["attention"] != "") & (shown.rows["phases"] != "")]
    if rows.empty:
        return
    for suffix, group in itertools.islice(settings(rows), MOST):
        if not group.empty:
            yield f"phases{suffix}", _bars(at_one_resolution(group), shown)


def _bars(rows: pd.DataFrame, shown: Shown) -> Figure:
    """A bar for each row, the fastest on top."""
    rows = rows.sort_values("latency_s")
    figure = Figure(figsize=(style.COLUMN_WIDTH, 1.15 + 0.16 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, text in enumerate(rows["phases"]):
        _bar(axes, y, _shares(text))
    for y, seconds in enumerate(rows["latency_s"]):
        label = f"{units.significant(float(seconds) * 1e3)} ms"
        axes.text(1.01, y, label, va="center", fontsize=6)
    told = {phase for text in rows["phases"] for phase in _shares(text)}
    shown_phases = [phase for phase in _ORDER if phase in told]
    figure.legend(
        [Patch(color=_COLOURS[phase]) for phase in shown_phases],
        shown_phases,
        loc="outside upper center",
        ncols=5,
        fontsize=6,
        handlelength=0.8,
        handletextpad=0.3,
        columnspacing=0.8,
    )
    axes.set_xlim(0, 1.16)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [style.wrapped(name) for name in views.names_of(rows)])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", "25%", "50%", "75%", "100%"])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False)
    axes.set_title("Where a layer's time goes")
    first = rows.iloc[0]
    caption = (
        f"{words_of(first)}, {shown.caption_of(first)}. Each operator timed by itself; kernel: QK, "
        "softmax and AV in one."
    )
    style.caption_below(figure, caption)
    return figure


def _shares(text: str) -> dict[str, float]:
    """`projections:0.51 QK:0.2` as shares, in the order of the chart."""
    pairs = (word.partition(":") for word in text.split())
    shares = {name: float(share) for name, _, share in pairs}
    return {name: shares[name] for name in _ORDER if name in shares}


def _bar(axes: Axes, y: int, shares: Mapping[str, float]) -> None:
    start = 0.0
    for name, share in shares.items():
        axes.barh(
            y, share, 0.78, left=start, color=_COLOURS[name], edgecolor="white", linewidth=0.4
        )
        if share >= _LEAST_TOLD:
            ink = "#222222" if name in _LIGHT else "white"
            place = start + share / 2
            axes.text(place, y, f"{share:.0%}", ha="center", va="center", fontsize=5.5, color=ink)
        start += share
