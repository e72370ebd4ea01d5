"""Charts across runtimes: a heat map of speeds, and the ranks from runtime to runtime."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence, Set

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullLocator

from vitbench import runtimes
from vitbench.analysis import across_runtimes
from vitbench.analysis.across_runtimes import Comparison, Rows, latency_s
from vitbench.render import labels, style, units
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record, subject_of

# Slower, alike, faster: the palette's orange and blue, which all readers tell apart.
_COLOURS = LinearSegmentedColormap.from_list("speeds", ["#D55E00", "#FFFFFF", "#0072B2"])
_PLAIN, _GREY = "#F4F4F4", "#BBBBBB"
# The colours end at a factor between these.
_LEAST_REACH, _MOST_REACH = 1.5, 4.0
_TICKS, _FINE_TICKS = (0.25, 0.5, 1.0, 2.0, 4.0), (0.67, 0.8, 1.0, 1.25, 1.5)
# Of the way to the end of the colours: from here on text is white.
_DARK = 0.75
# A runtime has ranks where it measured more than this share of the subjects.
_LEAST = 0.5


def figures(
    records: Sequence[Record], caption_of: Callable[[Record], str]
) -> Iterator[tuple[str, Figure]]:
    """(file name, figure) of every chart, for each setting that several runtimes measured."""
    compared = across_runtimes.comparisons(records)
    for comparison, words in zip(compared, labels.settings_of(compared), strict=True):
        suffix = re.sub(r"[^\w.]+", "-", words.replace(" px", "px")).replace("_", "-")
        caption = caption_of(comparison.own_row)
        yield f"runtimes-{suffix}", heat_map(comparison, words, caption)
        slopes = ranks(comparison, words, caption)
        if slopes is not None:
            yield f"runtime-ranks-{suffix}", slopes


def heat_map(comparison: Comparison, words: str, caption: str) -> Figure:
    """The speed of each subject in each runtime over that in the first, the fastest on top."""
    base, names = comparison.runtimes[0], labels.subjects_of(comparison)
    asked = {runtime for rows in comparison.subjects for runtime in rows}
    columns = [name for name in dict.fromkeys((*runtimes.names(), *sorted(asked))) if name in asked]
    columns.sort(key=lambda name: name != base)
    order = _by_speed(comparison, base)
    best = {id(row) for one in across_runtimes.fastest(comparison) for row in one.rows}
    names = [style.wrapped(name) for name in names]
    width, height = _label_size(names, 0.3)
    size = (2.0 + width + 1.05 * len(columns), 2.1 + height * len(order))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    speeds = [_speed(rows, name, base) for rows in comparison.subjects for name in columns]
    reach = max(max(speed, 1 / speed) for speed in speeds if speed is not None)
    reach = min(max(reach, _LEAST_REACH), _MOST_REACH)
    for y, index in enumerate(order):
        _draw_row(axes, y, comparison.subjects[index], columns, base, reach, best)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(order) - 0.5, -0.5)
    titles = _titles(comparison, columns)
    titles[0] += "\nms a call"
    axes.set_xticks(range(len(columns)), titles, fontsize=9)
    axes.set_yticks(range(len(order)), [names[i] for i in order], fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(f"Speed over {labels.runtime_in(comparison, base)} at {words}", pad=12)
    scale = ScalarMappable(LogNorm(1 / reach, reach), _COLOURS)
    bar = figure.colorbar(scale, ax=axes, shrink=min(1.0, 6 / len(order)), aspect=14, pad=0.02)
    bar.ax.yaxis.set_minor_locator(NullLocator())
    ticks = _TICKS if reach >= 2 else _FINE_TICKS
    bar.set_ticks([tick for tick in ticks if 1 / reach <= tick * 1.01 and tick <= reach * 1.01])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.tick_params(labelsize=9)
    bar.outline.set_visible(False)
    style.caption_below(figure, "\n".join([caption, *_key(comparison, best)]))
    return figure


def _titles(comparison: Comparison, columns: Iterable[str]) -> list[str]:
    """Of columns, each a runtime; a dtype of its own in a second line."""
    return [labels.runtime_in(comparison, name).replace(" ", "\n") for name in columns]


def _label_size(names: Sequence[str], least_height: float) -> tuple[float, float]:
    """Width and height of the largest of these labels, in inches."""
    lines = [name.split("\n") for name in names]
    widest = max(len(line) for own in lines for line in own)
    return 0.085 * widest, max(least_height, 0.17 * max(map(len, lines)))


def _key(comparison: Comparison, best: Set[int]) -> list[str]:
    """What the cells mean that are not explained by the scale, a line each."""
    rows = comparison.rows
    lines = ["bold: the fastest of its row, and what noise does not tell from it"] if best else []
    if any(row["status"] != MEASURED for row in rows):
        lines.append("hatched: not measured; the reasons stand in records.csv")
    if any(row["status"] == MEASURED and not across_runtimes.is_trusted(row) for row in rows):
        lines.append("C, D: the trust of the less trusted of the two times, too low for a ranking")
    return lines


def _draw_row(
    axes: Axes, y: int, rows: Rows, columns: Sequence[str], base: str, reach: float, best: Set[int]
) -> None:
    for x, name in enumerate(columns):
        row = rows.get(name)
        if row is None:
            continue
        speed, colour, hatch, text = _speed(rows, name, base), _PLAIN, "", ""
        weight, size, ink = ("bold" if id(row) in best else "normal"), 9.0, "#222222"
        if row["status"] != MEASURED:
            text, hatch, size = str(row["status"]).replace("_", " "), "////", 7.5
        elif name == base or speed is None:
            text = units.significant(latency_s(row) * 1e3) + ("" if name == base else " ms")
            text += _doubt(row)
        else:
            way = max(-1.0, min(1.0, math.log(speed) / math.log(reach)))
            colour = to_hex(_COLOURS((way + 1) / 2))
            ink = "white" if abs(way) > _DARK else ink
            text = f"{speed:.2f}" if speed < 10 else units.significant(speed)
            text += _doubt(row, rows[base])
        corner = (x - 0.5, y - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=colour, edgecolor="white", linewidth=1.5))
        if hatch:
            axes.add_patch(
                Rectangle(corner, 1, 1, fill=False, edgecolor="#D0D0D0", hatch=hatch, linewidth=0)
            )
        drawn = axes.text(
            x, y, text, ha="center", va="center", fontsize=size, color=ink, weight=weight
        )
        if hatch:
            drawn.set_bbox({"facecolor": _PLAIN, "edgecolor": "none", "pad": 1.0})


def _doubt(*rows: Record) -> str:
    """The worst grade, where no order may be read from it."""
    doubted = [str(row["trust"]) for row in rows if not across_runtimes.is_trusted(row)]
    return f" {max(doubted)}" if doubted else ""


def _speed(rows: Rows, runtime: str, base: str) -> float | None:
    """In a runtime over that in the base, where both are measured."""
    pair = [rows.get(base), rows.get(runtime)]
    times = [latency_s(row) for row in pair if row is not None and row["status"] == MEASURED]
    return times[0] / times[1] if len(times) == 2 else None


def _by_speed(comparison: Comparison, runtime: str) -> list[int]:
    """The indices of the subjects, the fastest in a runtime first; the unmeasured last."""

    def time_s(index: int) -> float:
        row = comparison.subjects[index].get(runtime)
        return latency_s(row) if row is not None and row["status"] == MEASURED else math.inf

    return sorted(range(len(comparison.subjects)), key=time_s)


def ranks(comparison: Comparison, words: str, caption: str) -> Figure | None:
    """The ranks of the subjects that all drawn runtimes measured, the fastest on top. None where
    fewer than two subjects or runtimes are left.
    """
    subjects = comparison.subjects
    columns = [
        name for name in comparison.runtimes if _count(subjects, name) > _LEAST * len(subjects)
    ]
    drawn = [i for i, rows in enumerate(subjects) if all(_count([rows], name) for name in columns)]
    if len(drawn) < 2 or len(columns) < 2:
        return None
    names = labels.subjects_of(comparison)
    wrapped = [style.wrapped(name) for name in names]
    shown = dataclasses.replace(
        comparison, runtimes=tuple(columns), subjects=tuple(subjects[i] for i in drawn)
    )
    swaps = across_runtimes.swaps(shown)
    moved = {id(row) for swap in swaps for rows in (swap.one, swap.other) for row in rows.values()}
    places = {name: [i for i in _by_speed(comparison, name) if i in drawn] for name in columns}
    width, height = _label_size(wrapped, 0.27)
    size = (1.2 + 2 * width + 1.25 * len(columns), 1.9 + height * len(drawn))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for index in drawn:
        own = [places[name].index(index) + 1 for name in columns]
        look = style.style_of(subject_of(next(iter(subjects[index].values()))))
        is_moved = any(id(row) in moved for row in subjects[index].values())
        axes.plot(
            range(len(columns)),
            own,
            color=look.colour if is_moved else _GREY,
            linestyle=look.line if is_moved else "-",
            marker=look.marker,
            linewidth=1.8 if is_moved else 1.0,
            zorder=3 if is_moved else 2,
        )
        for x, y, side, gap in ((0, own[0], "right", -8), (len(columns) - 1, own[-1], "left", 8)):
            text = f"{wrapped[index]}  {y}" if side == "right" else f"{y}  {wrapped[index]}"
            axes.annotate(
                text,
                (x, y),
                (gap, 0),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8.5,
                color=look.colour if is_moved else "#777777",
            )
    axes.set_xlim(-0.05, len(columns) - 0.95)
    axes.set_ylim(len(drawn) + 0.6, 0.4)
    axes.set_xticks(range(len(columns)), _titles(comparison, columns), fontsize=9)
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.grid(visible=True, axis="x")
    axes.set_title(f"Rank by speed at {words}, the fastest on top", pad=12)
    style.caption_below(figure, "\n".join([caption, *_left_out(comparison, columns, drawn, names)]))
    return figure


def _count(subjects: Sequence[Rows], runtime: str) -> int:
    """How many of them a runtime measured."""
    return sum(rows[runtime]["status"] == MEASURED for rows in subjects if runtime in rows)


def _left_out(
    comparison: Comparison, columns: Sequence[str], drawn: Sequence[int], names: Sequence[str]
) -> list[str]:
    """What the ranks are of, a line each."""
    lines = ["coloured: changes places with another, beyond noise and in rows of trust A and B"]
    few = [
        labels.runtime_in(comparison, name) for name in comparison.runtimes if name not in columns
    ]
    if few:
        lines.append(f"without {', '.join(few)}, which measured half of them or fewer")
    absent = [name for index, name in enumerate(names) if index not in drawn]
    if absent:
        lines.append(f"without {', '.join(absent)}, which some runtime did not measure")
    return lines
