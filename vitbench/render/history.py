"""Throughput over runs: a panel for each case, with the steps that were found. PNG and PDF."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitbench.analysis.trend import Past, Series
from vitbench.render.charts import STYLE, look_of
from vitbench.render.verdicts import labels

_COLUMNS = 3
_MANY_RUNS = 12


def save(found: Sequence[Series], history: Sequence[Past], folder: Path) -> Path:
    """history.png and history.pdf in the folder; returns the PNG's path."""
    with mpl.rc_context(STYLE):
        figure = chart(found, history)
        figure.savefig(folder / "history.pdf", metadata={"CreationDate": None})
        figure.savefig(folder / "history.png")
    return folder / "history.png"


def chart(found: Sequence[Series], history: Sequence[Past]) -> Figure:
    """Throughput from zero against runs, levels as lines, steps as dotted lines."""
    columns = min(_COLUMNS, len(found))
    rows = math.ceil(len(found) / columns)
    figure = Figure(figsize=(4.6 * columns + 0.6, 2.5 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    titles = labels([one.describe for one in found])
    for axes, one, title in zip(panels, found, titles, strict=False):
        _panel(axes, one, title, history)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    figure.supylabel("throughput, images/s", fontsize=10)
    return figure


def _panel(axes: Axes, one: Series, title: str, history: Sequence[Past]) -> None:
    look = look_of(one.subject)
    values = np.asarray(one.values)
    axes.plot(one.runs, values, color=look.colour, marker=look.marker, linewidth=0.8)
    bounds = [0, *(step.after for step in one.steps), len(values)]
    for start, end in itertools.pairwise(bounds):
        level = float(np.median(values[start:end]))
        axes.plot(
            [one.runs[start], one.runs[end - 1]],
            [level] * 2,
            color=look.colour,
            linewidth=3,
            alpha=0.35,
        )
    for step in one.steps:
        place = (one.runs[step.before] + one.runs[step.after]) / 2
        axes.axvline(place, color="#D55E00", linestyle=":")
        axes.text(
            place,
            0.04,
            f" {step.ratio - 1:+.1%}",
            transform=axes.get_xaxis_transform(),
            color="#D55E00",
            fontsize=9,
        )
    axes.set_ylim(0, float(values.max()) * 1.15)
    axes.set_xlim(-0.5, len(history) - 0.5)
    every = max(1, math.ceil(len(history) / _MANY_RUNS))
    places = range(0, len(history), every)
    axes.set_xticks(
        list(places),
        [history[k].label[:12] for k in places],
        rotation=60,
        fontsize=7.5,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_title(title, fontsize=8.5)
