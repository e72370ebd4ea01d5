"""Our throughput against the published one, each over the same reference on its own machine."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitbench.analysis import published
from vitbench.analysis.published import RATES
from vitbench.analysis.published import Figure as Printed
from vitbench.render.views import Shown
from vitbench.render.views._scatter import Axis, scatter
from vitbench.results import frame
from vitbench.results.record import Record

_LEAST = 3


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each device of the published table that the run names, where cases are in both."""
    plan = shown.environment.get("plan") or {}
    name = plan.get("published")
    if not name:
        return
    printed = [figure for figure in published.read(name) if figure.quantity in RATES]
    reference = plan.get("reference") or plan.get("anchor") or (printed[0].key if printed else "")
    records = frame.records(shown.rows)
    ours = published.relative_ours(records, reference)
    theirs = published.relative_published(printed, reference)
    for device in dict.fromkeys(figure.device for figure in theirs):
        points = _points(shown.rows, records, ours, theirs, device)
        if len(points) >= _LEAST:
            suffix = device.lower().replace(" ", "-")
            yield f"published-{suffix}", _against(points, device, reference, shown)


def _points(
    rows: pd.DataFrame,
    records: list[Record],
    ours: dict[str, float],
    theirs: dict[Printed, float],
    device: str,
) -> pd.DataFrame:
    """The rows with both ratios, each case once."""
    found = {}
    for record in records:
        for figure, ratio in theirs.items():
            case = str(record["case"])
            if figure.device == device and case in ours and figure.is_of(record):
                found[case] = (ours[case], ratio)
    kept = rows[rows["case"].isin(list(found))].drop_duplicates("case")
    pairs = [found[case] for case in kept["case"]]
    return kept.assign(ours=[a for a, _ in pairs], published=[b for _, b in pairs])


def _against(rows: pd.DataFrame, device: str, reference: str, shown: Shown) -> Figure:
    x = Axis(f"published, {device}: speed over {reference}", "published", better=1)
    y = Axis(f"here: speed over {reference}", "ours", better=1)

    def line(axes: Axes) -> None:
        """Where both agree."""
        both = [*rows["ours"], *rows["published"]]
        ends = np.array([min(both), max(both)])
        axes.plot(ends, ends, color="#888888", linewidth=0.7, linestyle="--", zorder=1)

    caption = (
        f"{shown.caption_of(rows.iloc[0])}; dashed: as fast over {reference} as published. "
        "Times of two machines do not compare, but what one gains over another on each does."
    )
    return scatter(rows, x, y, "Published against ours", caption, behind=line)
