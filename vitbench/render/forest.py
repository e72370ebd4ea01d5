"""The forest plot of a comparison: a ratio with its interval for each case. PNG and PDF."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from vitbench.gate import Result
from vitbench.render.plots import STYLE
from vitbench.stats import Ratio

_COLOURS = {"slower": "#D55E00", "faster": "#009E73", "same": "#222222", "undecided": "#8A8A8A"}
_MARKERS = {"slower": "s", "faster": "D", "same": "o", "undecided": "o"}


def save(result: Result, title: str, folder: Path) -> Path | None:
    """forest.png and forest.pdf; None where there is no ratio to draw."""
    with mpl.rc_context(STYLE):
        figure = forest(result, title)
        if figure is None:
            return None
        figure.savefig(folder / "forest.pdf", metadata={"CreationDate": None})
        figure.savefig(folder / "forest.png")
    return folder / "forest.png"


def forest(result: Result, title: str) -> Figure | None:
    """Latency ratios on a logarithmic axis, the limit of each case as a tick, 1 as a line."""
    drawn = [
        (one.verdict, one.verdict.ratio)
        for one in reversed(result.judged)
        if one.verdict.ratio is not None
        and 0 < one.verdict.ratio.low < one.verdict.ratio.high
        and math.isfinite(one.verdict.ratio.high)
    ]
    if not drawn:
        return None
    figure = Figure(figsize=(9.5, 1.7 + 0.34 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    for place, (verdict, ratio) in enumerate(drawn):
        colour = _COLOURS[verdict.word]
        axes.plot([ratio.low, ratio.high], [place, place], color=colour, linewidth=1.8)
        marker, fill = _MARKERS[verdict.word], "white" if verdict.word == "undecided" else colour
        axes.plot(ratio.value, place, marker=marker, color=colour, markerfacecolor=fill)
        axes.plot(1 + verdict.threshold, place, marker="|", color="#D55E00", markersize=9)
        axes.text(
            1.01,
            place,
            f"{verdict.word} {ratio.value:.3f}",
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=9,
            color=colour,
        )
    axes.axvline(1.0, color="#222222", linewidth=0.9)
    axes.set_xscale("log")
    reach = _reach([ratio for _, ratio in drawn], max(v.threshold for v, _ in drawn))
    axes.set_xlim(1 / reach, reach)
    axes.set_ylim(-0.6, len(drawn) - 0.4)
    axes.set_yticks(range(len(drawn)), [verdict.describe for verdict, _ in drawn], fontsize=9)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = _ticks(reach)
    axes.set_xticks(ticks)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("latency of head over base, 95% interval (orange ticks: what is called slower)")
    axes.set_title(title, fontsize=10)
    return figure


def _reach(ratios: list[Ratio], threshold: float) -> float:
    """How far the axis goes to either side of 1, as a factor: all of every interval, up to 4."""
    ends = [max(ratio.high, 1 / ratio.low) for ratio in ratios]
    return min(4.0, max(*ends, 1 + threshold, 1.05) ** 1.1)


def _ticks(reach: float) -> list[float]:
    steps = {1.12: 0.02, 1.3: 0.05, 1.7: 0.1, 2.5: 0.25}
    step = next((step for limit, step in steps.items() if reach <= limit), 0.5)
    count = int((reach - 1) / step)
    return [round(1 + step * k, 3) for k in range(-min(count, int(0.9 / step)), count + 1)]
