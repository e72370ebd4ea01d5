"""Points of subjects in a plane, the best of them joined and named."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from vitbench.analysis.groups import SUBJECT, settings, trusted
from vitbench.analysis.pareto import Cost, fronts
from vitbench.render import labels, style, units, views
from vitbench.render.placing import Name, Point, Segment, place
from vitbench.results import frame

_HEIGHT = 3.1
_MOST_NAMED = 6  # of those that are not judged
_NAME_SIZE = 6.0
_FRONT, _MARKED, _PLAIN = "#222222", "#A03C00", "#555555"
# Ticks in a decade, where the axis ends below so many times its start.
_TICKS: Sequence[tuple[float, tuple[float, ...]]] = (
    (3.0, (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)),
    (9.0, (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)),
    (300.0, (1.0, 2.0, 5.0)),
    (float("inf"), (1.0,)),
)


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows of the rows.

    ends    columns of the interval's ends
    better  1: more is better, -1: less is
    is_log  its scale
    """

    label: str
    column: str
    scale: float = 1.0
    ends: tuple[str, str] | None = None
    better: int = -1
    is_log: bool = True

    def values(self, rows: pd.DataFrame, column: str | None = None) -> list[float]:
        """In the unit of the label."""
        values: list[float] = (rows[column or self.column].astype(float) * self.scale).tolist()
        return values


LATENCY = Axis("latency of a call, ms", "latency_s", 1e3, ("latency_low_s", "latency_high_s"))
PEAK = Axis("peak memory of a call, MiB", "peak_memory_bytes", 1 / 2**20)
THROUGHPUT = Axis(
    "throughput, images/s",
    "throughput_img_s",
    1.0,
    ("throughput_low_img_s", "throughput_high_img_s"),
    better=1,
)


def scatter(
    rows: pd.DataFrame,
    x: Axis,
    y: Axis,
    title: str,
    caption: str,
    *,
    front: Sequence[bool] = (),
    marks: Sequence[str] = (),
    behind: Callable[[Axes], None] | None = None,
) -> Figure:
    """A point for each row, with its interval, and its name beside it; in a legend where there is
    no room for that.

    front   which rows are on the front; a line is its edge
    marks   behind the names, such as by how much a row is misjudged; "" for none
    behind  draws what lies behind the points
    """
    front = front or [False] * len(rows)
    marks = marks or [""] * len(rows)
    xs, ys = x.values(rows), y.values(rows)
    best = edge([(xs[i], ys[i]) for i in range(len(rows)) if front[i]], x, y)
    corners = stairs(best, x)
    names = [
        Name(
            f"{name} {mark}".strip(),
            xs[i],
            ys[i],
            bold=front[i],
            colour=_FRONT if front[i] else _MARKED if mark else _PLAIN,
        )
        for i, (name, mark) in enumerate(zip(views.names_of(rows), marks, strict=True))
    ]
    order = sorted(range(len(rows)), key=lambda i: (not front[i], not marks[i], ys[i]))
    lines = [*itertools.pairwise(corners), *_whiskers(rows, x, y)]
    in_legend: set[Name] = set()
    while True:
        figure = Figure(figsize=(style.COLUMN_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        axes.margins(0.12)
        if behind is not None:
            behind(axes)
        points = _points(axes, rows, x, y)
        across, up = [corner[0] for corner in corners], [corner[1] for corner in corners]
        axes.plot(across, up, color=_FRONT, linewidth=0.9, alpha=0.5, zorder=2)
        for axis, direction in ((x, "x"), (y, "y")):
            if axis.is_log:
                _logarithmic(axes, direction)
        axes.set_xlabel(x.label)
        axes.set_ylabel(y.label)
        axes.set_title(title)
        style.caption_below(figure, caption)
        if in_legend:
            _legend(figure, [(points[i], names[i].text) for i in order if names[i] in in_legend])
        wanted = [names[i] for i in order if names[i] not in in_legend]
        unnamed = place(axes, wanted, _NAME_SIZE, lines, others=list(in_legend))
        if not unnamed:
            return figure
        in_legend |= {*unnamed}


def _points(axes: Axes, rows: pd.DataFrame, x: Axis, y: Axis) -> list[ErrorbarContainer]:
    """With their intervals."""
    points = []
    for index, subject in enumerate(rows["subject"]):
        look, row = style.style_of(subject), rows.iloc[[index]]
        drawn = axes.errorbar(
            x.values(row),
            y.values(row),
            xerr=_error(x, row),
            yerr=_error(y, row),
            color=look.colour,
            marker=look.marker,
            markersize=4.2,
            markeredgecolor="white",
            markeredgewidth=0.4,
            elinewidth=0.6,
            linestyle="none",
            zorder=3,
        )
        points.append(drawn)
    return points


def _legend(figure: Figure, entries: Sequence[tuple[ErrorbarContainer, str]]) -> None:
    """Of the points whose names have no room beside them."""
    figure.legend(
        [handle[0] for handle, _ in entries],
        [text for _, text in entries],
        loc="outside upper center",
        ncols=3,
        fontsize=_NAME_SIZE,
        handletextpad=0.1,
        columnspacing=0.8,
        borderpad=0.1,
        labelspacing=0.25,
    )


def edge(points: Sequence[Point], x: Axis, y: Axis) -> list[Point]:
    """Of the points of a front the best ones; noise does not tell the others from them."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-x.better * p[0], -y.better * p[1])):
        if not best or y.better * point[1] > y.better * best[-1][1]:
            best.append(point)
    return sorted(best)


def stairs(front: Sequence[Point], x: Axis) -> list[Point]:
    """The front as stairs: between two of its points, nothing is better than the worse of both."""
    corners = list(front[:1])
    for before, after in itertools.pairwise(front):
        corners += [(after[0], before[1]) if x.better < 0 else (before[0], after[1]), after]
    return corners


def _whiskers(rows: pd.DataFrame, x: Axis, y: Axis) -> Iterator[Segment]:
    """The intervals, as lines."""
    for index, (across, up) in enumerate(zip(x.values(rows), y.values(rows), strict=True)):
        for axis, ends in ((x, x.ends), (y, y.ends)):
            if ends is not None:
                low, high = (axis.values(rows.iloc[[index]], end)[0] for end in ends)
                yield ((low, up), (high, up)) if axis is x else ((across, low), (across, high))


def front_of(rows: pd.DataFrame, against: Cost) -> list[bool]:
    """Which rows are on the Pareto front of throughput: nothing that costs no more is faster beyond
    noise. None of those that are not trusted."""
    found = fronts(settings(frame.records(rows), SUBJECT))
    own = [front for front in found if front.against == against]
    cases = {record["case"] for front in own for record in front.points}
    return [case in cases for case in rows["case"]]


def not_judged(rows: pd.DataFrame) -> str:
    """A sentence on the rows that no front can hold, because they are not trusted; "" for none."""
    good = {record["case"] for record in trusted(frame.records(rows))}
    names = [
        name
        for name, case in zip(views.names_of(rows), rows["case"], strict=True)
        if case not in good
    ]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    text = ", ".join(names[:_MOST_NAMED]) + more
    return f" Not judged, for they are too noisy: {text}." if names else ""


def _error(axis: Axis, row: pd.DataFrame) -> list[list[float]] | None:
    if axis.ends is None:
        return None
    (value,) = axis.values(row)
    low, high = (axis.values(row, end)[0] for end in axis.ends)
    return None if low != low or high != high else [[value - low], [high - value]]


def _logarithmic(axes: Axes, name: str) -> None:
    (axes.set_xscale if name == "x" else axes.set_yscale)("log")
    direction = axes.xaxis if name == "x" else axes.yaxis
    low, high = axes.get_xlim() if name == "x" else axes.get_ylim()
    subs = next(subs for most, subs in _TICKS if high < most * low)
    direction.set_major_locator(LogLocator(subs=subs, numticks=9))
    direction.set_major_formatter(FuncFormatter(lambda value, _: units.tick(value)))
    direction.set_minor_formatter(NullFormatter())


def words_of(row: pd.Series) -> str:
    """The resolution, and the tokens of a layer."""
    tokens = f", {row['grid_height']} x {row['grid_width']} tokens" if row["attention"] else ""
    return f"{labels.resolution(row)} px{tokens}"
