"""The roofline: FLOP/s over arithmetic intensity, under what the machine reached."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitbench.render import units
from vitbench.render.views import MOST, Shown
from vitbench.render.views._scatter import Axis, scatter, words_of
from vitbench.render.views._settings import at_resolutions
from vitbench.results.outcome import Ceilings, ceilings_from_dict

_INTENSITY = Axis("arithmetic intensity, FLOP/byte", "intensity", better=1)
_RATE = Axis("GFLOP/s", "flops_rate", 1e-9, better=1)
_LINE = "#444444"
_LOOKS = {"memory": "-", "caches (dotted)": ":"}


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each setting whose ceilings were measured."""
    data = shown.environment.get("ceilings")
    if data is None:
        return
    ceilings, rows = ceilings_from_dict(data), shown.rows
    rows = rows[(rows["compulsory_bytes"] > 0) & (rows["flops_rate"] > 0)]
    flops = rows["flops"].astype(float) * rows["batch_size"]
    rows = rows.assign(
        intensity=flops / rows["compulsory_bytes"],
        computed=rows["computed_dtype"].where(rows["computed_dtype"] != "", rows["dtype"]),
    )
    for suffix, group in itertools.islice(at_resolutions(rows), MOST):
        peak = ceilings.flops_rate.get(group["computed"].iloc[0])
        if peak is not None and group["computed"].nunique() == 1:
            yield f"roofline{suffix}", _under(group, ceilings, peak, shown)


def _under(rows: pd.DataFrame, ceilings: Ceilings, peak: float, shown: Shown) -> Figure:
    first = rows.iloc[0]
    bandwidths = {"memory": ceilings.bandwidth, "caches (dotted)": _of_caches(ceilings)}
    known = {name: rate for name, rate in bandwidths.items() if rate is not None}

    def roof(axes: Axes) -> None:
        low, high = rows["intensity"].min() / 3, rows["intensity"].max() * 3
        if ceilings.bandwidth is not None:
            low = min(low, peak / ceilings.bandwidth / 3)
        for name, bandwidth in known.items():
            xs = [low, min(max(peak / bandwidth, low), high), high]
            ys = [min(x * bandwidth, peak) / 1e9 for x in xs]
            axes.plot(xs, ys, color=_LINE, linewidth=0.8, linestyle=_LOOKS[name], zorder=1)
        if not known:
            axes.axhline(peak / 1e9, color=_LINE, linewidth=0.8, zorder=1)

    roofs = ", ".join(f"{name} at {units.si(rate)}B/s" for name, rate in known.items())
    caption = (
        f"{words_of(first)}, {shown.caption_of(first)}. Bytes are those that any implementation "
        "must move: weights, input and output, once each. The roof is what the machine reached: "
        f"{units.si(peak)}FLOP/s in a matrix product, and copies: {roofs}."
    )
    return scatter(rows, _INTENSITY, _RATE, "Roofline", caption, behind=roof)


def _of_caches(ceilings: Ceilings) -> float | None:
    """The fastest copy, where it is faster than that of the memory."""
    fastest = max((rate for _, rate in ceilings.cached), default=0.0)
    return fastest if fastest > (ceilings.bandwidth or 0.0) else None
