"""Rows that share a setting: what may stand in one chart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pandas as pd

from vitbench.analysis.groups import head_of
from vitbench.cases.row import CONDITIONS
from vitbench.cases.scalars import parse_scalar
from vitbench.render import labels
from vitbench.results import frame

# Apart from the subject, its implementation and the resolution.
_SETTING = ("device", "device_name", "runtime", *CONDITIONS)
_LEAST = 3  # subjects that a chart compares


def settings(rows: pd.DataFrame, apart: Sequence[str] = ()) -> Iterator[tuple[str, pd.DataFrame]]:
    """A suffix for file names, and the measured rows of each setting, those with most rows first.

    apart  columns that do not tell settings from each other
    """
    names = ["head", *(name for name in _SETTING if name not in apart)]
    measured = frame.measured(rows)
    measured = measured.assign(head=[head_of(record) for record in frame.records(measured)])
    differing = labels.varying(measured, names)
    if not differing:
        yield "", measured
        return
    groups = list(measured.groupby(differing, sort=False, dropna=False))
    # A device has one name, mostly.
    told = [name for name in differing if name != "device_name" or "device" not in differing]
    for values, group in sorted(groups, key=lambda pair: -len(pair[1])):
        texts = dict(zip(differing, map(str, values), strict=True))
        parts = [f"{name}-{texts[name]}" for name in told if texts[name] not in ("", "<NA>", "nan")]
        yield re.sub(r"[^\w.]+|_", "-", "".join(f"-{part}" for part in parts)), group


def at_one_resolution(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the resolution that most subjects were measured at; of equals the largest."""
    counts = rows.groupby("area")["subject"].nunique()
    most = counts[counts == counts.max()].index.max()
    return rows[rows["area"] == most]


def at_resolutions(
    rows: pd.DataFrame, apart: Sequence[str] = ()
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Of each setting the rows at one resolution, where that compares enough subjects."""
    for suffix, group in settings(rows, apart):
        chosen = at_one_resolution(group)
        if chosen["subject"].nunique() >= _LEAST:
            yield suffix, chosen


def hyperparameters(rows: pd.DataFrame) -> pd.DataFrame:
    """The hyper-parameters of each row; None where it has not that one."""
    read = [
        {k: parse_scalar(v) for k, _, v in (word.partition("=") for word in str(text).split())}
        for text in rows["settings"]
    ]
    return pd.DataFrame(read, index=rows.index, dtype=object)


def written(value: object) -> str:
    """A hyper-parameter as one writes it; `-` where there is none."""
    return "-" if value is None or value != value else str(value).lower()


def file_of(name: str) -> str:
    """A name as part of a file's."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def ordered(values: pd.Series) -> list[str]:
    """Numbers by size, then words."""

    def key(text: str) -> tuple[bool, float, str]:
        value = parse_scalar(text)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return not is_number, float(value) if is_number else 0.0, text

    return sorted(set(values), key=key)
