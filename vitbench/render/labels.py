"""What cases are called in tables and charts: by that in which they differ."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vitbench.cases.axes import AXES
from vitbench.cases.case import Resolution

if TYPE_CHECKING:
    import pandas as pd

# In what measurements of a mechanism may differ, besides its settings.
_VARIANT = [name for name, axis in AXES.items() if axis.is_how]


def resolution(row: Mapping[str, Any] | pd.Series) -> str:
    """`224` or `800x1280`."""
    return str(Resolution(int(row["image_height"]), int(row["image_width"])))


def own_words(texts: Sequence[str]) -> list[str]:
    """Each text without the words that all of them share."""
    words = [text.split() for text in texts]
    shared = set.intersection(*map(set, words)) if words else set()
    return [" ".join(word for word in own if word not in shared) for own in words]


def short(names: Sequence[str]) -> list[str]:
    """Names without hyper-parameters, except where two would be alike."""
    bare = [" ".join(word for word in name.split() if "=" not in word) for name in names]
    return [a if bare.count(a) == 1 else b for a, b in zip(bare, names, strict=True)]


def variants(rows: pd.DataFrame) -> pd.Series:
    """In what each row differs from others of its mechanism: `alpha=0.5`, `eager`, or nothing.

    A setting that the stride determines does not count.
    """
    import pandas as pd

    labels: dict[Hashable, str] = {}
    for _, group in rows.groupby("subject"):
        columns = varying(group, _VARIANT)
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
