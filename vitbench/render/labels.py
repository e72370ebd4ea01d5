"""What cases are called in tables and charts: by that in which they differ."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitbench import runtimes
from vitbench.analysis.across_runtimes import Comparison
from vitbench.cases.axes import AXES, text_of
from vitbench.cases.case import Resolution
from vitbench.cases.row import HOW, SETTINGS
from vitbench.cases.sweep import Sweep
from vitbench.errors import BadInput
from vitbench.results.record import Record, subject_of

if TYPE_CHECKING:
    import pandas as pd


def resolution(row: Mapping[str, Any] | pd.Series) -> str:
    """`224` or `800x1280`."""
    return str(Resolution(int(row["image_height"]), int(row["image_width"])))


def subject(row: Record) -> str:
    """`hilo[alpha=0.5]`: a mechanism or backbone, with the settings that are not the authors'."""
    usual = _usual_settings(
        str(row["attention"] or ""), str(row["backbone"] or ""), int(row["stride"] or 0)
    )
    own = ",".join(word for word in str(row["settings"] or "").split() if word not in usual)
    return f"{subject_of(row)}[{own}]" if own else subject_of(row)


@functools.cache
def _usual_settings(attention: str, backbone: str, stride: int) -> list[str]:
    """The settings of a subject that nobody chose; none of a subject that is not ours."""
    kind = {"attention": attention, "stride": stride} if attention else {"backbone": backbone}
    try:
        (case,) = Sweep(elsewhere=True, resolution=Resolution(448, 448), **kind).expand()
    except BadInput:
        return []
    return case.settings.split()


def own_words(texts: Sequence[str]) -> list[str]:
    """Each text without the words that all of them share."""
    words = [text.split() for text in texts]
    shared = set.intersection(*map(set, words)) if words else set()
    return [" ".join(word for word in own if word not in shared) for own in words]


def own_settings(records: Sequence[Record]) -> list[str]:
    """Of each row's hyper-parameters those that differ inside its mechanism."""
    own = [""] * len(records)
    peers_of: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        peers_of.setdefault(subject_of(record), []).append(index)
    for peers in peers_of.values():
        texts = own_words([str(records[index]["settings"]) for index in peers])
        for index, text in zip(peers, texts, strict=True):
            own[index] = text
    return own


def subjects_of(comparison: Comparison) -> list[str]:
    """What each of its subjects is called among the others: `msa`, `hilo alpha=0.9`."""
    records = [next(iter(rows.values())) for rows in comparison.subjects]
    bare = [
        f"{subject_of(record)} {own}".strip()
        for record, own in zip(records, own_settings(records), strict=True)
    ]
    count = Counter(bare)
    return [
        f"{name} {record['impl']}" if count[name] > 1 else name
        for name, record in zip(bare, records, strict=True)
    ]


def runtime_in(comparison: Comparison, name: str) -> str:
    """What a runtime is called in it: `openvino`, or `eager float32` where that stands for a dtype
    that it has not."""
    is_base = name == runtimes.DEFAULT
    return f"{name} {comparison.base_dtype}".strip() if is_base else name


def settings_of(comparisons: Sequence[Comparison]) -> list[str]:
    """What each is called among the others: the resolution, and in what else they differ."""
    records = [comparison.own_row for comparison in comparisons]
    named = [name for name in (*SETTINGS, "device", "device_name", "torch") if name not in HOW]
    differing = [name for name in named if len({record[name] for record in records}) > 1]
    return [
        ", ".join([f"{resolution(record)} px", *_told(record, differing)]) for record in records
    ]


def _told(record: Record, names: Sequence[str]) -> list[str]:
    """These columns of a row in words, without those that it does not have."""
    texts = {name: text_of(record[name]) for name in names}
    return [
        AXES[name].label(text) if name in AXES else text for name, text in texts.items() if text
    ]


def short(names: Sequence[str]) -> list[str]:
    """Names without hyper-parameters, except where two would be alike."""
    bare = [" ".join(word for word in name.split() if "=" not in word) for name in names]
    count = Counter(bare)
    return [a if count[a] == 1 else b for a, b in zip(bare, names, strict=True)]


def variants(rows: pd.DataFrame) -> pd.Series:
    """In what each row differs from others of its mechanism: `alpha=0.5`, `eager`, or nothing.

    A setting that the stride determines does not count.
    """
    import pandas as pd

    labels: dict[Hashable, str] = {}
    for _, group in rows.groupby("subject"):
        columns = varying(group, HOW)
        for _, peers in group.groupby("stride", dropna=False):
            settings = own_words(peers["settings"].tolist())
            for (index, row), own in zip(peers.iterrows(), settings, strict=True):
                words = [str(row[name]) for name in columns if _is_told(name, row[name])]
                labels[index] = " ".join([*words, own]).strip()
    return pd.Series(labels, index=rows.index, dtype=str)


def _is_told(name: str, value: str) -> bool:
    """Whether a label tells it: of implementations each, of the rest what is not the default."""
    return name == "impl" or value != AXES[name].default


def varying(rows: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """The columns that hold more than one value."""
    return [name for name in columns if rows[name].nunique(dropna=False) > 1]
