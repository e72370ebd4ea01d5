"""One device against another: the same cases, latency over latency."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitbench.analysis.compare import IDENTITY
from vitbench.render.views import MOST, Shown
from vitbench.render.views._scatter import Axis, scatter, words_of
from vitbench.render.views._settings import at_one_resolution, settings

_MACHINE = ["device", "device_name"]
_LEAST = 3


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each pair of devices that measured the same cases."""
    for suffix, group in itertools.islice(settings(shown.rows, apart=_MACHINE), MOST):
        rows = at_one_resolution(group)
        machines = list(dict.fromkeys(zip(rows["device"], rows["device_name"], strict=True)))
        for one, other in itertools.islice(itertools.combinations(machines, 2), MOST):
            pair = _joined(rows, one, other)
            if len(pair) >= _LEAST:
                name = f"devices-{one[0]}-{other[0]}{suffix}".replace(":", "")
                yield name, _against(pair, one[1], other[1], shown)


def _joined(rows: pd.DataFrame, one: tuple[str, str], other: tuple[str, str]) -> pd.DataFrame:
    """The rows of the one device, with the latency of the other in columns that end so."""
    keys = [name for name in IDENTITY if name in rows]
    sides = [
        rows[(rows["device"] == device) & (rows["device_name"] == name)].drop_duplicates(keys)
        for device, name in (one, other)
    ]
    times = ["latency_s", "latency_low_s", "latency_high_s"]
    return sides[0].merge(sides[1][[*keys, *times]], on=keys, suffixes=("", "_other"))


def _against(pair: pd.DataFrame, one: str, other: str, shown: Shown) -> Figure:
    ends = ("latency_low_s", "latency_high_s")
    x = Axis(f"{one}: ms a call", "latency_s", 1e3, ends)
    y = Axis(
        f"{other}: ms a call", "latency_s_other", 1e3, (f"{ends[0]}_other", f"{ends[1]}_other")
    )
    ratio = float((pair["latency_s_other"] / pair["latency_s"]).median())

    def line(axes: Axes) -> None:
        """Of the same ratio everywhere."""
        ends = np.array([pair["latency_s"].min(), pair["latency_s"].max()]) * 1e3
        axes.plot(ends, ends * ratio, color="#888888", linewidth=0.7, linestyle="--", zorder=1)

    first = pair.iloc[0]
    setting = shown.caption_of(first).removeprefix(f"{one}, ")
    factor = f"{ratio:.3g}" if ratio >= 1 else f"1 / {1 / ratio:.3g}"
    caption = f"{words_of(first)}, {setting}; dashed: the median ratio, {factor}"
    return scatter(pair, x, y, "Device against device", caption, behind=line)
