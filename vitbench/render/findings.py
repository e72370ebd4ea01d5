"""Across runtimes, in words: the fastest of each mechanism, and pairs whose order changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from vitbench import runtimes
from vitbench.analysis import across_runtimes, stats
from vitbench.analysis.across_runtimes import Comparison, Rows, Swap
from vitbench.render import labels
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record

# Pairs whose order changes that are told of one setting, and of one subject in it.
_MOST_PAIRS, _MOST_OF_ONE = 5, 2
_MOST_SUBJECTS = 200


def lines(records: Sequence[Record]) -> list[str]:
    """The sentences of `groups` below their titles."""
    return [line for title, own in groups(records) for line in (f"{title}:", *own)]


def groups(records: Sequence[Record]) -> list[tuple[str, list[str]]]:
    """A title and sentences for each setting that several runtimes measured; none where there is
    no such."""
    compared = across_runtimes.comparisons(records)
    return [
        (f"across runtimes, {words}", _of(comparison))
        for comparison, words in zip(compared, labels.settings_of(compared), strict=True)
    ]


def _of(comparison: Comparison) -> list[str]:
    names = dict(zip(map(id, comparison.rows), _names_of_rows(comparison), strict=True))
    best = across_runtimes.fastest(comparison)
    levels: dict[str, list[str]] = {}
    for one in best:
        used = [str(row["runtime"]) for row in one.rows]
        level = " or ".join(
            labels.runtime_in(comparison, name) for name in comparison.runtimes if name in used
        )
        level += ", alike within noise" if len(used) > 1 else ""
        levels.setdefault(level, []).append(names[id(one.rows[0])])
    found = [
        f"fastest in {used}: {', '.join(own)}"
        for used, own in sorted(levels.items(), key=lambda group: -len(group[1]))
    ]
    speedups = [one.speedup for one in best if one.speedup is not None]
    if speedups:
        mean = stats.geometric_mean(speedups)
        found.append(
            f"the fastest is {mean:.2f} times as fast as "
            + labels.runtime_in(comparison, runtimes.DEFAULT)
            + (f": the geometric mean of {len(speedups)}" if len(speedups) > 1 else "")
        )
    # The pairs grow with the square of the subjects, and nobody reads so many.
    swaps = across_runtimes.swaps(comparison) if len(comparison.subjects) <= _MOST_SUBJECTS else []
    told = _varied(swaps, names)
    found += [_sentence(swap, names, comparison) for swap in told]
    if (more := len(swaps) - len(told)) > 0:
        found.append(f"{more} more pairs change their order between runtimes")
    measured = [row for row in comparison.rows if row["status"] == MEASURED]
    if left_out := sum(not across_runtimes.is_trusted(row) for row in measured):
        grades = " and ".join(across_runtimes.TRUSTED)
        found.append(
            f"{left_out} of {len(measured)} rows are not of trust {grades}, and no order is read "
            "from them: `vitbench doctor` says what disturbs this machine"
        )
    return found


def _names_of_rows(comparison: Comparison) -> list[str]:
    """The name of the subject of each of `comparison.rows`."""
    names = labels.subjects_of(comparison)
    return [name for name, rows in zip(names, comparison.subjects, strict=True) for _ in rows]


def _varied(swaps: Sequence[Swap], names: Mapping[int, str]) -> list[Swap]:
    """The clearest, in which no subject occurs often."""
    told: list[Swap] = []
    seen = Counter[str]()
    for swap in swaps:
        pair = [names[id(rows[swap.ahead])] for rows in (swap.one, swap.other)]
        if len(told) < _MOST_PAIRS and all(seen[name] < _MOST_OF_ONE for name in pair):
            told.append(swap)
            seen.update(pair)
    return told


def _sentence(swap: Swap, names: Mapping[int, str], comparison: Comparison) -> str:
    one, other = (names[id(rows[swap.ahead])] for rows in (swap.one, swap.other))
    ahead, behind = (_times(swap.one, swap.other, name) for name in (swap.ahead, swap.behind))
    first, second = (labels.runtime_in(comparison, name) for name in (swap.ahead, swap.behind))
    return (
        f"{one} is faster than {other} in {first} ({ahead:.2f} times) and slower in {second} "
        f"({behind:.2f} times)"
    )


def _times(one: Rows, other: Rows, runtime: str) -> float:
    """How many times as fast one is as the other."""
    return across_runtimes.latency_s(other[runtime]) / across_runtimes.latency_s(one[runtime])
