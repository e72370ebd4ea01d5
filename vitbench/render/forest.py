"""The forest plot of a comparison: a ratio with its interval for each case. PNG and PDF."""

from __future__ import annotations

import math
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from vitbench.analysis.gate import Result
from vitbench.analysis.stats import Ratio
from vitbench.render import labels, style

_COLOURS = {"slower": "#D55E00", "faster": "#009E73", "same": "#222222", "undecided": "#8A8A8A"}
_MARKERS = {"slower": "s", "faster": "D", "same": "o", "undecided": "o"}


def save(result: Result, caption: str, folder: Path) -> Path | None:
    """forest.png and forest.pdf; None where there is no ratio to draw."""
    with style.styled():
        figure = forest(result, caption)
        return None if figure is None else style.save(figure, folder, "forest")


def forest(result: Result, caption: str) -> Figure | None:
    """Latency ratios on a logarithmic axis, the limit of each case as a tick, 1 as a line."""
    full = labels.short([verdict.describe for verdict in result.verdicts])
    names, shared = _own_and_shared(full)
    drawn = [
        (verdict, verdict.ratio, name)
        for verdict, name in reversed(list(zip(result.verdicts, names, strict=True)))
        if verdict.ratio is not None and 0 < verdict.ratio.low < verdict.ratio.high < math.inf
    ]
    if not drawn:
        return None
    figure = Figure(figsize=(8.0, 1.9 + 0.34 * len(drawn)), layout="constrained")
    axes = figure.subplots()
    for row, (verdict, ratio, _) in enumerate(drawn):
        colour = _COLOURS[verdict.word]
        axes.plot([ratio.low, ratio.high], [row, row], color=colour, linewidth=1.8)
        marker, fill = _MARKERS[verdict.word], "white" if verdict.word == "undecided" else colour
        axes.plot(ratio.value, row, marker=marker, color=colour, markerfacecolor=fill)
        axes.plot(1 + verdict.threshold, row, marker="|", color="#D55E00", markersize=9)
        text, beside = f"{verdict.word} {ratio.value:.3f}", axes.get_yaxis_transform()
        axes.text(1.01, row, text, transform=beside, va="center", fontsize=9, color=colour)
    axes.axvline(1.0, color="#222222", linewidth=0.9)
    axes.set_xscale("log")
    reach = _reach([ratio for _, ratio, _ in drawn], max(v.threshold for v, _, _ in drawn))
    axes.set_xlim(1 / reach, reach)
    axes.set_ylim(-0.6, len(drawn) - 0.4)
    axes.set_yticks(range(len(drawn)), [name for _, _, name in drawn], fontsize=9)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    ticks = _ticks(reach)
    axes.set_xticks(ticks)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("latency ratio, 95% interval; orange: from here on it is called slower")
    axes.set_title("Latency of head over base")
    lines = [caption, shared] if shared else [caption]
    figure.supxlabel("\n".join(lines), fontsize=8.5, color="#555555", x=0.01, ha="left")
    return figure


def _own_and_shared(names: list[str]) -> tuple[list[str], str]:
    """The names without the words that all share, and those words."""
    if len(names) < 2:
        return names, ""
    own = labels.own_words(names)
    shared = [word for word in names[0].split() if word not in own[0].split()]
    return [a or b.split()[0] for a, b in zip(own, names, strict=True)], " ".join(shared)


def _reach(ratios: list[Ratio], threshold: float) -> float:
    """How far the axis goes to either side of 1, as a factor: all of every interval, up to 4."""
    ends = [max(ratio.high, 1 / ratio.low) for ratio in ratios]
    return min(4.0, max(*ends, 1 + threshold, 1.05) ** 1.1)


def _ticks(reach: float) -> list[float]:
    steps = {1.12: 0.02, 1.3: 0.05, 1.6: 0.1, 2.5: 0.25}
    step = next((step for limit, step in steps.items() if reach <= limit), 0.5)
    count = int((reach - 1) / step)
    return [round(1 + step * k, 3) for k in range(-min(count, int(0.9 / step)), count + 1)]
