"""Published top-1 accuracy against measured throughput, of whole models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from vitbench.analysis.accuracy import published_top1
from vitbench.render.views import MOST, Shown
from vitbench.render.views._scatter import THROUGHPUT, Axis, front_of, not_judged, scatter, words_of
from vitbench.render.views._settings import at_resolutions
from vitbench.results import frame

_TOP1 = Axis("published top-1 on ImageNet-1k, %", "top1", better=1, is_log=False)
_LEAST = 2


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """For each setting with models of which an accuracy was published."""
    rows = shown.rows[shown.rows["backbone"] != ""]
    published = [published_top1(record) for record in frame.records(rows)]
    rows = rows[[top1 is not None for top1 in published]]
    known = [top1 for top1 in published if top1 is not None]
    if not known:
        return
    rows = rows.assign(
        top1=[top1.percent for top1 in known], remark=[top1.remark for top1 in known]
    )
    for suffix, group in itertools.islice(at_resolutions(rows), MOST):
        if group["top1"].nunique() >= _LEAST:
            yield f"accuracy{suffix}", _against(group, shown)


def _against(rows: pd.DataFrame, shown: Shown) -> Figure:
    caption = (
        f"{words_of(rows.iloc[0])}, {shown.caption_of(rows.iloc[0])}. The accuracy is what others "
        "published for their weights. Line and bold: the Pareto front; nothing is more accurate "
        f"and faster, beyond noise.{not_judged(rows)}"
    )
    remarks = rows[rows["remark"] != ""]
    marks = ["*" if remark else "" for remark in rows["remark"]]
    for remark, group in remarks.groupby("remark", sort=False):
        caption += f" * {', '.join(group['subject'])}: {remark}."
    return scatter(
        rows,
        THROUGHPUT,
        _TOP1,
        "Accuracy against throughput",
        caption,
        front=front_of(rows, "top1"),
        marks=marks,
    )
