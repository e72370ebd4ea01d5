"""Speed over the hyper-parameters of one subject: curves over one of them, a heat map over two."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cache

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vitbench.analysis import published
from vitbench.render import style, units
from vitbench.render.views import MOST, Shown
from vitbench.render.views._cells import cell, frame_of
from vitbench.render.views._scatter import words_of
from vitbench.render.views._settings import file_of, hyperparameters, ordered, settings, written
from vitbench.results import frame
from vitbench.results.record import Record

_LEAST = 3  # values that make a curve
_ACCURACY = "#777777"


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each setting and subject of which one number was varied, or two hyper-parameters."""
    found = itertools.chain.from_iterable(
        _of_setting(suffix, group, shown)
        for suffix, group in settings(shown.rows, apart=("runtime",))
    )
    yield from itertools.islice(found, 2 * MOST)


def _of_setting(suffix: str, rows: pd.DataFrame, shown: Shown) -> Iterator[tuple[str, Figure]]:
    for (subject, _), own in rows.groupby(["subject", "area"], sort=False):
        values = hyperparameters(own)
        varied = [str(name) for name in values if values[name].nunique() > 1]
        own = own.join(values[varied].rename(columns=_column))
        size = f"-{own.iloc[0]['image_height']}" if rows["area"].nunique() > 1 else ""
        name = f"{file_of(str(subject))}{suffix}{size}"
        if len(varied) == 1 and _is_number(values[varied[0]], _LEAST):
            yield f"over-{file_of(varied[0])}-{name}", curves(own, varied[0], shown)
        elif len(varied) > 1:
            x, y = _fullest(values, varied)
            others = [key for key in varied if key not in (x, y)]
            own = own[values[[x, y]].notna().all(axis=1)]
            for runtime, part in own.groupby("runtime", sort=False):
                each = f"-{runtime}" if own["runtime"].nunique() > 1 else ""
                yield f"settings-{name}{each}", heat_map(part, x, y, others, shown)


def _fullest(values: pd.DataFrame, varied: Sequence[str]) -> tuple[str, str]:
    """The pair of hyper-parameters with the most different pairs of values; the one with more
    values first."""
    pairs = list(itertools.combinations(varied, 2))
    counts = [len(values[list(pair)].dropna().drop_duplicates()) for pair in pairs]
    x, y = pairs[counts.index(max(counts))]
    return (x, y) if values[x].nunique() >= values[y].nunique() else (y, x)


def _column(name: object) -> str:
    return f"setting {name}"


def _is_number(values: pd.Series, least: int) -> bool:
    numbers = [v for v in values.dropna() if isinstance(v, int | float) and not isinstance(v, bool)]
    return len(numbers) == len(values.dropna()) and len({*numbers}) >= least


def curves(rows: pd.DataFrame, name: str, shown: Shown) -> Figure:
    """Throughput over one number, a curve for each runtime, with the published accuracy on a second
    axis; MACs below."""
    column = _column(name)
    rows = rows.dropna(subset=[column]).sort_values(column)
    figure = Figure(figsize=(style.COLUMN_WIDTH, 3.3), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    runtimes = list(dict.fromkeys(rows["runtime"]))
    for index, runtime in enumerate(runtimes):
        own = rows[(rows["runtime"] == runtime) & rows["throughput_img_s"].notna()]
        look = style.of_index(index + 1)
        low, high = (own[f"throughput_{end}_img_s"] for end in ("low", "high"))
        above.errorbar(
            own[column].astype(float),
            own["throughput_img_s"],
            yerr=[own["throughput_img_s"] - low, high - own["throughput_img_s"]],
            label=runtime,
            color=look.colour,
            marker=look.marker,
            elinewidth=0.7,
        )
    above.set_ylabel("throughput, images/s")
    note = _accuracy_beside(above, rows, column)
    one = rows.drop_duplicates(column)
    gmacs = one["macs"].astype(float) / 1e9
    below.plot(one[column].astype(float), gmacs, color="#222222", marker="o")
    below.set_ylabel("GMACs")
    below.set_xlabel(name)
    subject = rows.iloc[0]["subject"]
    above.set_title(f"{subject} over {name}")
    if len(runtimes) > 1:
        figure.legend(loc="outside upper center", ncols=4, fontsize=6)
    style.caption_below(
        figure, f"{words_of(rows.iloc[0])}, {shown.caption_of(rows.iloc[0])}.{note}"
    )
    return figure


def _accuracy_beside(axes: Axes, rows: pd.DataFrame, column: str) -> str:
    """Draws the published accuracy on an axis of its own; the sentence that says so."""
    one = rows.drop_duplicates(column)
    percents = [_published(record) for record in frame.records(one)]
    known = [(x, y) for x, y in zip(one[column].astype(float), percents, strict=True) if y]
    if len(known) < _LEAST:
        return ""
    beside = axes.twinx()
    beside.plot(*zip(*known, strict=True), color=_ACCURACY, linestyle=":", marker="D", markersize=3)
    beside.set_ylabel("published top-1, %", color=_ACCURACY)
    beside.tick_params(axis="y", colors=_ACCURACY)
    beside.spines["right"].set_visible(True)
    beside.grid(visible=False)
    return " Dotted: the top-1 accuracy on ImageNet that the authors published."


def _published(record: Record) -> float | None:
    figure = next((one for one in _ablations() if one.is_of(record)), None)
    return None if figure is None else float(figure.value)


@cache
def _ablations() -> tuple[published.Figure, ...]:
    return tuple(one for one in published.read("alpha") if one.quantity == "top1")


def heat_map(rows: pd.DataFrame, x: str, y: str, others: Sequence[str], shown: Shown) -> Figure:
    """Throughput over that of the fastest at each pair of values; of settings that differ in
    another one the fastest."""
    columns = [_column(x), _column(y)]
    rows = rows.assign(**{column: rows[column].map(written) for column in columns})
    best = rows.loc[rows.groupby(columns)["throughput_img_s"].idxmax()]
    xs, ys = (ordered(rows[column]) for column in columns)
    figure = Figure(figsize=(style.COLUMN_WIDTH, 0.95 + 0.2 * len(ys)), layout="constrained")
    axes = figure.subplots()
    fastest, slowest = best["throughput_img_s"].max(), best["throughput_img_s"].min()
    for _, row in best.iterrows():
        across, down = xs.index(row[columns[0]]), ys.index(row[columns[1]])
        cell(axes, across, down, row["throughput_img_s"] / fastest, slowest / fastest)
        if row["rounds"] < best["rounds"].max():  # given up: known from fewer rounds
            box = (across - 0.5, down - 0.5)
            axes.add_patch(Rectangle(box, 1, 1, fill=False, hatch="....", edgecolor="#FFFFFF99"))
    frame_of(axes, xs, ys)
    axes.set_xlabel(x)
    axes.xaxis.set_label_position("top")
    axes.set_ylabel(y)
    axes.set_title(f"{rows.iloc[0]['subject']}: speed over the fastest")
    notes = [
        f"{words_of(rows.iloc[0])}, {shown.caption_of(rows.iloc[0])}, {rows.iloc[0]['runtime']}"
    ]
    notes.append(f"1.00 is {units.significant(fastest)} images/s")
    if best["rounds"].nunique() > 1:
        notes.append("Dotted: given up, from fewer rounds")
    if others:
        notes.append(f"The fastest over {', '.join(others)}")
    if len(best) < len(xs) * len(ys):
        notes.append("Empty: not measured")
    style.caption_below(figure, ". ".join(notes))
    return figure
