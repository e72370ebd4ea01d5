"""Charts of a run: PNG, PDF and SVG, one style, the same colour for a mechanism everywhere."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from vitbench.cases.row import CONDITIONS
from vitbench.errors import BadInput, StorageFull, writing
from vitbench.instruments import memory
from vitbench.render import labels, runtime_charts, style, units, views
from vitbench.results import frame
from vitbench.results.folder import plots_folder, read_environment_file


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a chart shows of a row."""

    title: str
    column: str
    label: str
    interval: tuple[str, str] | None = None
    scale: float = 1.0


_ENDS = ("throughput_low_img_s", "throughput_high_img_s")
THROUGHPUT = Quantity("Throughput", "throughput_img_s", "throughput, images/s", _ENDS)
MACS = Quantity("MACs", "macs", "MACs of one image")
MEMORY = Quantity("Peak memory", "peak_memory_bytes", "peak memory, MiB", scale=1 / 2**20)
QUANTITIES = (THROUGHPUT, MACS, MEMORY)
# As many as a legend holds, and a reader tells apart.
_MOST_LINES = 24
# What makes two rows different measurements, apart from the subject and the resolution.
SETTING = ("device", *CONDITIONS)


def draw(run: Path, into: Path | None = None) -> list[Path]:
    """The charts of a run folder or a CSV file of records, as PNG, PDF and SVG; returns the PNG
    paths.

    They go into `plots_folder` unless told where. Raises BadInput, StorageFull.
    """
    rows = frame.read(run)
    name = ", ".join(sorted({*rows["device_name"]} - {""})) or "unknown device"
    drawn = figures(rows, name, read_environment_file(run))
    return save_all(drawn, into or plots_folder(run), StorageFull if into is None else BadInput)


def draw_together(runs: Sequence[Path], into: Path) -> list[Path]:
    """The charts in which several runs can stand: views of all their rows, and device against
    device. Returns the PNG paths. Raises BadInput, StorageFull.
    """
    rows = pd.concat([frame.read(run) for run in runs], ignore_index=True)
    return save_all(views_of(rows, "unknown device", {}), into, BadInput)


def save_all(
    drawn: Iterator[tuple[str, Figure]],
    folder: Path,
    fault: type[BadInput | StorageFull] = StorageFull,
) -> list[Path]:
    """Draws and saves charts as PNG, PDF and SVG. Returns the PNG paths. Raises BadInput,
    StorageFull.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fault(f"{folder} cannot be made: {error.strerror}") from None
    with writing(folder), style.styled():
        return [style.save(figure, folder, name) for name, figure in drawn]


def figures(
    rows: pd.DataFrame, device_name: str, environment: Mapping[str, Any] | None = None
) -> Iterator[tuple[str, Figure]]:
    """(file name, figure) of every chart; one set for each setting (dtype, batch size, ...), and
    for each runtime where all in one would be too many to tell apart."""
    yield from of_resolutions(rows, device_name)
    yield from views_of(rows, device_name, environment or {})


def views_of(
    rows: pd.DataFrame, device_name: str, environment: Mapping[str, Any]
) -> Iterator[tuple[str, Figure]]:
    """(file name, figure) of the charts of `vitbench.render.views`."""
    area = rows["image_height"] * rows["image_width"]
    named = rows.assign(variant=labels.variants(rows), area=area)

    def caption_of(row: pd.Series, varied: Sequence[str] = ()) -> str:
        return _caption(row, row["device_name"] or device_name, varied)

    yield from views.figures(views.Shown(named, caption_of, environment))


def of_resolutions(rows: pd.DataFrame, device_name: str) -> Iterator[tuple[str, Figure]]:
    """(file name, figure) of bars, curves over the resolution, and runtimes side by side."""
    yield from runtime_charts.figures(
        frame.records(rows), lambda record: _caption(record, device_name)
    )
    lines = frame.measured(rows).drop_duplicates(["subject", "settings", "impl", "runtime"])
    if len(lines) <= _MOST_LINES or lines["runtime"].nunique() == 1:
        yield from _figures(rows, device_name)
        return
    for runtime, own in rows.groupby("runtime", sort=False):
        for name, figure in _figures(own, f"{device_name}, {runtime}"):
            yield f"{name}-{runtime}", figure


def _figures(rows: pd.DataFrame, device_name: str) -> Iterator[tuple[str, Figure]]:
    """Those within one setting, on one legend."""
    # Rows that were not measured also count in what makes one row differ from the others.
    rows = frame.measured(rows.assign(variant=labels.variants(rows)))
    rows = rows.assign(variant=_marked(rows))
    if rows.empty:
        return
    for end in _ENDS:  # older files need not have them
        rows[end] = rows[end].fillna(rows["throughput_img_s"])
    area = rows["image_height"] * rows["image_width"]
    rows = rows.assign(area=area, side=area.astype(float) ** 0.5)
    differing = labels.varying(rows, SETTING)
    groups = rows.groupby(differing, sort=False, dropna=False) if differing else [((), rows)]
    for values, group in groups:
        settings = zip(differing, values, strict=True)
        suffix = "".join(f"-{name}-{value}" for name, value in settings if value is not pd.NA)
        suffix = suffix.replace("_", "-").replace(":", "")
        caption = _caption(group.iloc[0], device_name)
        smallest = group[group["area"] == group["area"].min()]
        yield f"throughput-bars{suffix}", bars(smallest, caption)
        if group["side"].nunique() > 1:
            yield f"overview{suffix}", overview(group, caption)
            for quantity in QUANTITIES:
                name = quantity.title.lower().replace(" ", "-")
                yield f"{name}{suffix}", curves(group, quantity, caption)


def _marked(rows: pd.DataFrame) -> pd.Series[str]:
    """The variants; where MACs are a lower bound, they say so."""
    bound = rows["macs_is_lower_bound"].fillna(False).astype(bool)
    bound = bound.groupby([rows["subject"], rows["variant"]]).transform("any")
    marked = (rows["variant"] + " (MACs ≥)").str.strip()
    return rows["variant"].where(~bound, marked)


def _caption(
    row: Mapping[str, Any] | pd.Series, device_name: str, varied: Sequence[str] = ()
) -> str:
    """The machine and the setting, without what a chart varies."""
    words = [device_name, str(row["dtype"])]
    words += [] if "batch_size" in varied else [f"batch {row['batch_size']}"]
    if row["attention"]:
        words += [] if "dim" in varied else [f"dim {row['dim']}"]
        words += [f"{row['num_heads']} heads", f"stride {row['stride']}"]
    if row["mode"] != "forward":
        words.append("forward + backward")
    if row["cold"]:
        words.append("cold caches")
    return ", ".join(words)


def _label(subject: str, variant: str) -> str:
    return style.wrapped(f"{subject} {variant}".strip())


def bars(rows: pd.DataFrame, caption: str) -> Figure:
    """Throughput at one resolution: bars from zero, fastest on top, with 95% intervals."""
    rows = rows.sort_values("throughput_img_s")
    names = [_label(*pair) for pair in zip(rows["subject"], rows["variant"], strict=True)]
    lines = max(name.count("\n") for name in names) + 1
    tall = max(0.36, 0.19 * lines) * len(rows)
    figure = Figure(figsize=(7.2, 1.7 + tall), layout="constrained")
    axes = figure.subplots()
    values, low, high_ends = (rows[name].to_numpy(float) for name in ("throughput_img_s", *_ENDS))
    spread = [values - low, high_ends - values]
    colours = [style.style_of(name).colour for name in rows["subject"]]
    whiskers = {"ecolor": "#555555", "elinewidth": 1.2, "capsize": 2.5}
    drawn = axes.barh(names, values, color=colours, xerr=spread, error_kw=whiskers)
    is_bound = rows["launch_bound"].fillna(False).astype(bool)
    for bar, bound in zip(drawn, is_bound, strict=True):
        bar.set(hatch="///" if bound else None, edgecolor="white", linewidth=0)
    if is_bound.any():
        caption += "\nhatched: launch-bound, the host cannot launch as fast as the device computes"
    widest = float(high_ends.max())
    for index, (value, high) in enumerate(zip(values, high_ends, strict=True)):
        axes.text(high + 0.012 * widest, index, units.significant(value), va="center", fontsize=9)
    axes.set_xlim(0, widest * 1.12)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"{THROUGHPUT.label} (bars: median, whiskers: 95% interval)")
    first = rows.iloc[0]
    grid = f", {first['grid_height']} x {first['grid_width']} tokens" if first["attention"] else ""
    axes.set_title(f"Throughput at {labels.resolution(first)} px{grid}")
    style.caption_below(figure, caption)
    return figure


def curves(rows: pd.DataFrame, quantity: Quantity, caption: str) -> Figure:
    """One quantity against resolution, one line a mechanism, both axes logarithmic."""
    figure, (axes,) = _panels(rows, [quantity], 7.2, caption)
    axes.set_title(f"{quantity.title} against resolution")
    return figure


def overview(rows: pd.DataFrame, caption: str) -> Figure:
    """Throughput, MACs and peak memory side by side."""
    return _panels(rows, QUANTITIES, 14.5, caption)[0]


def _panels(
    rows: pd.DataFrame, quantities: Sequence[Quantity], width: float, caption: str
) -> tuple[Figure, list[Axes]]:
    """A panel for each quantity, with one legend, in as many columns as it takes."""
    columns = math.ceil(len(rows[["subject", "variant"]].drop_duplicates()) / _MOST_LINES)
    figure = Figure(figsize=(width + 1.7 * (columns - 1), 4.6), layout="constrained")
    panels = list(figure.subplots(1, len(quantities), squeeze=False)[0])
    for axes, quantity in zip(panels, quantities, strict=True):
        _draw(axes, rows, quantity)
        axes.set_title(quantity.title)
    figure.legend(*_legend(panels[0]), loc="outside right upper", fontsize=9, ncols=columns)
    style.caption_below(figure, caption + _on_memory(rows, quantities))
    return figure, panels


def _on_memory(rows: pd.DataFrame, quantities: Sequence[Quantity]) -> str:
    """A line for peaks that do not compare with the others, where they are drawn."""
    inexact = rows[rows["memory_source"].isin(memory.INEXACT)]
    if MEMORY not in quantities or inexact.empty:
        return ""
    names = ", ".join(sorted({*inexact["runtime"]}))
    return f"\npeak memory of {names}: with its own buffers; it compares with no allocator's peak"


def _legend(axes: Axes) -> tuple[list[Any], list[str]]:
    """Handles and labels in the order of the curves' right ends, so that eye and legend agree."""
    entries: list[tuple[Any, str]] = list(zip(*axes.get_legend_handles_labels(), strict=True))
    ordered = sorted(entries, key=lambda entry: -entry[0][0].get_ydata()[-1])
    return [handle for handle, _ in ordered], [label for _, label in ordered]


def _draw(axes: Axes, rows: pd.DataFrame, quantity: Quantity) -> None:
    drawn: Counter[str] = Counter()
    for _, line in rows.groupby(["subject", "variant"], sort=False):
        subject, variant = line[["subject", "variant"]].iloc[0]
        _draw_line(axes, line, quantity, _label(subject, variant), drawn[subject])
        drawn[subject] += 1
    axes.set_xscale("log")
    axes.set_yscale("log")
    sides = {row["side"]: labels.resolution(row) for _, row in rows.iterrows()}
    axes.set_xticks(list(sides), list(sides.values()), fontsize=9)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: units.tick(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("image, pixels")
    axes.set_ylabel(quantity.label)


def _draw_line(axes: Axes, line: pd.DataFrame, quantity: Quantity, label: str, nth: int) -> None:
    line = line.sort_values("side")
    line = line[line[quantity.column] > 0]  # a logarithmic axis shows no zero
    if line.empty:
        return
    drawn = style.style_of(line["subject"].iloc[0])
    values = line[quantity.column].to_numpy(float) * quantity.scale
    spread = None
    if quantity.interval is not None:
        low, high = (line[name].to_numpy(float) * quantity.scale for name in quantity.interval)
        spread = [values - low, high - values]
    axes.errorbar(
        line["side"].to_numpy(float),
        values,
        yerr=spread,
        label=label,
        color=drawn.colour,
        marker=drawn.marker,
        linestyle=style.LINES[(style.LINES.index(drawn.line) + nth) % len(style.LINES)],
        alpha=1.0 if nth == 0 else 0.75,
        markerfacecolor=drawn.colour if nth == 0 else "white",
        capsize=2.5,
        elinewidth=1.1,
    )
