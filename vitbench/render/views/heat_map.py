"""Heat maps over two axes: speed of each subject at each size, and the fastest at each pair."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vitbench.render import labels, style, units, views
from vitbench.render.views import MOST, Shown
from vitbench.render.views._cells import cell, frame_of
from vitbench.render.views._settings import settings

_LEAST_SUBJECTS, _LEAST_COLUMNS = 3, 2
# Numbers that a sweep varies, and what a chart calls them.
_NUMBERS = {"resolution": "image, pixels", "batch_size": "images in a call", "dim": "channels"}


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each setting with several sizes; and the fastest where two numbers vary."""
    for suffix, group in itertools.islice(settings(shown.rows), MOST):
        names = pd.Series(views.names_of(group), index=group.index)
        group = group.assign(name=names, resolution=group["area"])
        if group["name"].nunique() >= _LEAST_SUBJECTS and group["area"].nunique() > 1:
            yield f"heat-map{suffix}", by_size(group, shown.caption_of(group.iloc[0]))
    for x, y in itertools.combinations(_NUMBERS, 2):
        for suffix, group in itertools.islice(settings(shown.rows, apart=(x, y)), MOST):
            names = pd.Series(views.names_of(group), index=group.index)
            group = group.assign(name=names, resolution=group["area"])
            if all(group[name].nunique() >= _LEAST_COLUMNS for name in (x, y)):
                yield f"fastest-{x}-{y}{suffix}".replace("_", "-"), fastest(group, x, y, shown)


def by_size(rows: pd.DataFrame, caption: str) -> Figure:
    """Throughput over that of the fastest at the same size; the fastest on the whole on top."""
    table = rows.pivot_table(index="name", columns="area", values="throughput_img_s", sort=True)
    share = table / table.max()
    share = share.loc[np.log(share).mean(axis=1).sort_values(ascending=False).index]
    titles = [labels.resolution(rows[rows["area"] == area].iloc[0]) for area in share.columns]
    height = 0.9 + 0.155 * len(share)
    figure = Figure(figsize=(style.COLUMN_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    least = float(np.nanmin(share.to_numpy()))
    for y, (_, line) in enumerate(share.iterrows()):
        for x, value in enumerate(line):
            cell(axes, x, y, value, least)
    frame_of(axes, titles, list(share.index))
    axes.set_xlabel("image, pixels")
    axes.xaxis.set_label_position("top")
    axes.set_title("Speed over the fastest")
    style.caption_below(
        figure, caption + ("; empty: not measured" if share.isna().any(axis=None) else "")
    )
    return figure


def fastest(rows: pd.DataFrame, x: str, y: str, shown: Shown) -> Figure:
    """The fastest subject at each pair, in its colour, and its throughput."""
    best = rows.loc[rows.groupby([x, y])["throughput_img_s"].idxmax()]
    rivals = rows.merge(
        best[[x, y, "name", "throughput_low_img_s"]], on=[x, y], suffixes=("", "_best")
    )
    is_rival = rivals["throughput_high_img_s"] >= rivals["throughput_low_img_s_best"]
    ties = rivals[is_rival & (rivals["name"] != rivals["name_best"])].groupby([x, y]).size()
    xs, ys = (sorted(best[name].unique()) for name in (x, y))
    figure = Figure(figsize=(style.COLUMN_WIDTH, 0.95 + 0.34 * len(ys)), layout="constrained")
    axes = figure.subplots()
    for _, row in best.iterrows():
        place = (xs.index(row[x]), ys.index(row[y]))
        look = style.style_of(row["subject"])
        axes.add_patch(
            Rectangle(
                (place[0] - 0.5, place[1] - 0.5),
                1,
                1,
                facecolor=look.colour,
                alpha=0.22,
                edgecolor="white",
                linewidth=0.8,
            )
        )
        tied = "\u2248 " if (row[x], row[y]) in ties.index else ""
        text = f"{tied}{row['name']}\n{units.significant(row['throughput_img_s'])}"
        axes.text(*place, text, ha="center", va="center", fontsize=6)
    frame_of(axes, [_tick(rows, x, value) for value in xs], [_tick(rows, y, value) for value in ys])
    axes.set_xlabel(_NUMBERS[x])
    axes.xaxis.set_label_position("top")
    axes.set_ylabel(_NUMBERS[y])
    axes.set_title("The fastest, and its images/s")
    note = ". \u2248: noise does not tell it from another" if len(ties) else ""
    style.caption_below(figure, shown.caption_of(rows.iloc[0], (x, y)) + note)
    return figure


def _tick(rows: pd.DataFrame, name: str, value: float) -> str:
    if name != "resolution":
        return str(value)
    return labels.resolution(rows[rows["area"] == value].iloc[0])
