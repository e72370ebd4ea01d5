"""Views of a run: a file here without an underscore draws one kind of chart, where the run has what
it needs. Its `figures` gives names of files and figures.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from vitbench import listed
from vitbench.render import style

# Of the charts of one view: a run over everything has thousands of settings.
MOST = 4


@dataclass(frozen=True, slots=True)
class Shown:
    """What is drawn of a run.

    rows         its rows, measured or not, with the columns subject, variant and area
    caption_of   the machine and the setting of a row, in words, without the axes that are named
    environment  the run's environment.json; {} where there are only records
    """

    rows: pd.DataFrame
    caption_of: Callable[..., str]
    environment: Mapping[str, Any]


@functools.cache
def _views() -> tuple[ModuleType, ...]:
    return tuple(listed.load(__name__, name, needs="figures") for name in listed.names(__path__))


def figures(shown: Shown) -> Iterator[tuple[str, Figure]]:
    """(file name, figure) of every view that the run has something for."""
    for view in _views():
        with style.for_a_column():
            yield from view.figures(shown)


def names_of(rows: pd.DataFrame) -> list[str]:
    """What each row is called in a chart: the subject, and what tells it from others of its own
    that are in the same chart."""
    whole = (rows["subject"] + " " + rows["variant"]).str.strip()
    is_alone = rows.groupby("subject")["case"].transform("nunique") == 1
    names: list[str] = rows["subject"].where(is_alone, whole).tolist()
    return names
