"""The settings of one subject: throughput against MACs and against peak memory, and the fronts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitbench.analysis.tuning import analytic
from vitbench.instruments import memory
from vitbench.render import style
from vitbench.render.placing import Name, place
from vitbench.render.views import MOST, Shown
from vitbench.render.views._scatter import PEAK, THROUGHPUT, Axis, edge, stairs, words_of
from vitbench.render.views._settings import file_of, hyperparameters, ordered, settings, written
from vitbench.results import frame

_LEAST = 6  # settings that make a chart
_MOST_COLOURS = 10
_MOST_NAMED = 2  # hyper-parameters whose values are a name
_GMACS = Axis("GMACs of one image", "macs", 1e-9)
_PANELS = (_GMACS, PEAK)


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each setting of the axes and subject with enough hyper-parameters."""
    for suffix, group in itertools.islice(settings(shown.rows), MOST):
        for (subject, _), own in group.groupby(["subject", "area"], sort=False):
            values = hyperparameters(own)
            varied = [str(name) for name in values if values[name].nunique() > 1]
            if len(own) >= _LEAST and len(varied) > 1:
                size = f"-{own.iloc[0]['image_height']}" if group["area"].nunique() > 1 else ""
                name = f"trade-offs-{file_of(str(subject))}{suffix}{size}"
                yield name, trade_offs(own, values[varied], shown)


def trade_offs(rows: pd.DataFrame, values: pd.DataFrame, shown: Shown) -> Figure:
    """Points in the colour of the hyper-parameter with the fewest values; the others are named
    along the front."""
    names = [str(name) for name in values]
    fewest = min(names, key=lambda n: (values[n].isna().any(), values[n].nunique(), n))
    others = [name for name in names if name != fewest]
    groups = ordered(values[fewest].map(written))[:_MOST_COLOURS]
    labels = _labels(values[others])
    figure = Figure(figsize=(style.COLUMN_WIDTH, 4.2), layout="constrained")
    panels = figure.subplots(2)
    for axes, cost in zip(panels, _PANELS, strict=True):
        known = rows[rows[cost.column].notna()]
        for index, value in enumerate(groups):
            own = known[(values[fewest].map(written) == value).loc[known.index]]
            look = style.of_index(index + 1)
            axes.plot(
                cost.values(own),
                THROUGHPUT.values(own),
                linestyle="none",
                color=look.colour,
                marker=look.marker,
                label=f"{fewest} {value}" if axes is panels[0] else None,
            )
        axes.set_xlabel(cost.label)
        axes.set_ylabel(THROUGHPUT.label)
    panels[0].set_title(f"{rows.iloc[0]['subject']}: speed against cost")
    figure.legend(
        loc="outside upper center",
        ncols=4,
        fontsize=6,
        handletextpad=0.1,
        columnspacing=0.8,
        borderpad=0.1,
    )
    caption = (
        f"{words_of(rows.iloc[0])}, {shown.caption_of(rows.iloc[0])}. Lines: the fronts; nothing "
        f"is cheaper and faster. Named by {_named_by(others)}. Rings: what MACs and parameters "
        "would choose among."
    )
    if rows["memory_source"].isin(memory.INEXACT).any():
        caption += " Peaks are of the resident set."
    style.caption_below(figure, caption)
    _ring_the_cheapest(panels[0], rows)
    for axes, cost in zip(panels, _PANELS, strict=True):
        _draw_front(axes, rows[rows[cost.column].notna()], cost, labels)
    return figure


def _named_by(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _MOST_NAMED else "what is rare among the settings"


def _labels(values: pd.DataFrame) -> pd.Series:
    """The values of a row; of many hyper-parameters those that are not the commonest, by name."""
    texts = values.map(written)
    if texts.shape[1] <= _MOST_NAMED:
        return texts.agg(" ".join, axis=1)
    usual = {name: texts[name].mode()[0] for name in texts}
    return texts.apply(
        lambda row: " ".join(f"{n} {row[n]}" for n in texts if row[n] not in (usual[n], "-")),
        axis=1,
    )


def _ring_the_cheapest(axes: Axes, rows: pd.DataFrame) -> None:
    cases = {record["case"] for record in analytic(frame.records(rows))}
    best = rows[rows["case"].isin(cases)]
    axes.plot(
        _GMACS.values(best),
        THROUGHPUT.values(best),
        linestyle="none",
        marker="o",
        markersize=8,
        markerfacecolor="none",
        markeredgecolor="#222222",
        markeredgewidth=0.7,
    )


def _draw_front(axes: Axes, rows: pd.DataFrame, cost: Axis, labels: pd.Series) -> None:
    """The edge of the points, by name."""
    points = list(zip(cost.values(rows), THROUGHPUT.values(rows), strict=True))
    best = edge(points, cost, THROUGHPUT)
    corners = stairs(best, cost)
    axes.plot(*zip(*corners, strict=True), color="#222222", linewidth=0.8, alpha=0.6, zorder=1)
    text_of = dict(zip(points, labels.loc[rows.index], strict=True))
    names = [Name(text_of[point], *point, bold=True) for point in best]
    others = [Name("", *point) for point in points if point not in best]
    place(axes, names, 6.0, list(itertools.pairwise(corners)), others=others)
