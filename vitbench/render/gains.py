"""What each mechanism gains in its fastest runtime, by dtype, and how far it is from the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vitbench import runtimes
from vitbench.analysis import across_runtimes, stats
from vitbench.analysis.across_runtimes import BASE_DTYPE, Gain, latency_s
from vitbench.render import labels, units
from vitbench.results.record import Record, subject_of

# Of the operators beside the MACs, how many are named.
_NAMED = 4


@dataclass(frozen=True, slots=True)
class Table:
    """The gains of one setting: the means are of the speedups of each dtype."""

    title: str
    header: list[str]
    rows: list[list[str]]
    means: dict[str, float]


def dtypes_of(gains: Sequence[Gain]) -> list[str]:
    """Those in which anything was measured, the base's first."""
    return sorted({dtype for gain in gains for dtype in gain.best}, key=lambda d: d != BASE_DTYPE)


def header(dtypes: Sequence[str]) -> list[str]:
    """Of the table; the last columns are of the fastest row in BASE_DTYPE."""
    own = [title for dtype in dtypes for title in (f"{dtype}, fastest in", "times", "output error")]
    return ["subject", f"{runtimes.DEFAULT}, ms", *own, "of the limit", "beside the MACs"]


def rows(gains: Sequence[Gain], dtypes: Sequence[str]) -> list[list[str]]:
    """A line for each subject, the largest gain in BASE_DTYPE first."""
    bases = [gain.base for gain in gains]
    names = [
        f"{subject_of(base)} {own}".strip()
        for base, own in zip(bases, labels.own_settings(bases), strict=True)
    ]
    order = sorted(range(len(gains)), key=lambda i: -gains[i].speedup(BASE_DTYPE))
    return [_row(names[i], gains[i], dtypes) for i in order]


def means(gains: Sequence[Gain]) -> dict[str, float]:
    """The geometric mean of the speedups of each dtype."""
    return {
        dtype: stats.geometric_mean([g.speedup(dtype) for g in gains if dtype in g.best])
        for dtype in dtypes_of(gains)
    }


def title(gain: Gain) -> str:
    """The setting: `224 px, batch 8`."""
    return f"{labels.resolution(gain.base)} px, batch {gain.base['batch_size']}"


def _row(name: str, gain: Gain, dtypes: Sequence[str]) -> list[str]:
    cells = [name, units.significant(latency_s(gain.base) * 1e3)]
    for dtype in dtypes:
        if (best := gain.best.get(dtype)) is None:
            cells += ["", "", ""]
            continue
        error = best["error_rms"]
        shown = "" if error is None else f"{float(str(error)):.1e}"
        cells += [str(best["runtime"]), f"{gain.speedup(dtype):.2f}", shown]
    best = gain.best[BASE_DTYPE]
    share = best["roofline_fraction"]
    return [*cells, "" if share is None else f"{float(str(share)):.0%}", _beside(best)]


def _beside(row: Record) -> str:
    """The most frequent operators that count no MACs: what fills the time that the MACs leave."""
    counts = [text.rsplit(":", 1) for text in str(row["uncounted_ops"] or "").split()]
    names = [name for name, _ in sorted(counts, key=lambda pair: -int(pair[1]))]
    return ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")


def tables(records: Sequence[Record]) -> list[Table]:
    """One for each setting in which the base was measured."""
    found = []
    for own in across_runtimes.gains(records):
        dtypes = dtypes_of(own)
        found.append(Table(title(own[0]), header(dtypes), rows(own, dtypes), means(own)))
    return found
