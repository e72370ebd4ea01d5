"""The cells of a heat map: a share of the fastest in each, and the words around them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Rectangle

from vitbench.render import style

_SCALE = LinearSegmentedColormap.from_list("speed", ["#F4F4F4", "#0072B2"])
_LEAST = 0.5  # where all are faster than half the fastest, that is the lightest all the same
_TENTH = 0.1  # from here on two digits are two decimals
_DARK = 0.85  # of the scale: from here on letters are white


def cell(axes: Axes, x: int, y: int, value: float, least: float) -> None:
    """A share of the fastest, coloured by its logarithm; nothing for NaN.

    least  the smallest share of the chart, above 0
    """
    if math.isnan(value):
        return
    place = 1 - math.log(value) / math.log(min(least, _LEAST))
    axes.add_patch(
        Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=_SCALE(place), edgecolor="white", lw=0.6)
    )
    weight = "bold" if value == 1 else "normal"
    ink = "white" if place > _DARK else "#222222"
    text = f"{value:.2f}" if value >= _TENTH else f"{value:.2g}"
    axes.text(x, y, text, ha="center", va="center", fontsize=6, color=ink, weight=weight)


def frame_of(axes: Axes, titles: Sequence[str], names: Sequence[str]) -> None:
    """Columns named at the top, rows at the left."""
    axes.set_xlim(-0.5, len(titles) - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks(range(len(titles)), titles)
    axes.set_yticks(range(len(names)), [style.wrapped(name) for name in names])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
