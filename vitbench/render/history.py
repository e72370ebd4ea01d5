"""Throughput over runs: a panel for each case, with the steps that were found. PNG and PDF."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitbench.analysis.trend import RunSnapshot, Series
from vitbench.render import labels, style

_COLUMNS = 3
_MANY_RUNS = 12


def save(cases: Sequence[Series], history: Sequence[RunSnapshot], folder: Path) -> Path:
    """history.png and history.pdf in the folder; returns the PNG's path."""
    with style.styled():
        return style.save(chart(cases, history), folder, "history")


def chart(cases: Sequence[Series], history: Sequence[RunSnapshot]) -> Figure:
    """Throughput from zero against runs, levels as lines, steps as dotted lines."""
    columns = min(_COLUMNS, len(cases))
    rows = math.ceil(len(cases) / columns)
    figure = Figure(figsize=(4.6 * columns + 0.6, 2.5 * rows + 0.9), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    titles = labels.short([case.describe for case in cases])
    for axes, case, title in zip(panels, cases, titles, strict=False):
        _panel(axes, case, title, history)
    for axes in panels[len(cases) :]:
        axes.set_visible(False)
    figure.supylabel("throughput, images/s", fontsize=10)
    return figure


def _panel(axes: Axes, case: Series, title: str, history: Sequence[RunSnapshot]) -> None:
    drawn = style.style_of(case.subject)
    values = np.asarray(case.values)
    axes.plot(case.runs, values, color=drawn.colour, marker=drawn.marker, linewidth=0.8)
    bounds = [0, *(step.after for step in case.steps), len(values)]
    for start, end in itertools.pairwise(bounds):
        level = float(np.median(values[start:end]))
        ends = [case.runs[start], case.runs[end - 1]]
        axes.plot(ends, [level] * 2, color=drawn.colour, linewidth=3, alpha=0.35)
    for step in case.steps:
        middle = (case.runs[step.before] + case.runs[step.after]) / 2
        axes.axvline(middle, color="#D55E00", linestyle=":")
        text, across = f" {step.ratio - 1:+.1%}", axes.get_xaxis_transform()
        axes.text(middle, 0.04, text, transform=across, color="#D55E00", fontsize=9)
    axes.set_ylim(0, float(values.max()) * 1.15)
    axes.set_xlim(-0.5, len(history) - 0.5)
    every = max(1, math.ceil(len(history) / _MANY_RUNS))
    ticks = range(0, len(history), every)
    names = [history[k].label[:12] for k in ticks]
    slanted: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(list(ticks), names, fontsize=7.5, **slanted)
    axes.set_title(title, fontsize=8.5)
