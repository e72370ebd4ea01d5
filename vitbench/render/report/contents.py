"""What page and summary tell in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from vitbench.analysis import across_runtimes, insight, trust
from vitbench.cases.row import name_of
from vitbench.render import findings, insights, tuning
from vitbench.render.report import fastest, versus
from vitbench.render.report.sources import Source
from vitbench.results.outcome import COUNTED, MEASURED
from vitbench.results.record import Record


@dataclass(frozen=True, slots=True)
class Contents:
    """The answers of a report, and what is missing from it.

    shared    what all settings of the answer have in common
    warning   where most figures cannot be trusted; else empty
    tuned     of runs that looked for the best setting: each contest, and sentences below it
    findings  titles, and sentences below each
    failures  status, reason, and the cases that it kept from being measured
    """

    title: str
    counts: str
    shared: str
    warning: str
    matrices: Sequence[fastest.Matrix]
    tuned: Sequence[tuple[str, Sequence[str]]]
    findings: Sequence[tuple[str, Sequence[str]]]
    versus: Sequence[versus.Versus]
    failures: Sequence[tuple[str, str, Sequence[str]]]

    @classmethod
    def of(cls, sources: Sequence[Source]) -> Contents:
        """Of the rows of all runs."""
        records = [record for source in sources for record in source.records]
        titles = dict.fromkeys(str(source.plan.get("title") or source.name) for source in sources)
        shared, matrices = fastest.matrices(records)
        return cls(
            title="; ".join(titles),
            counts=_counts(records),
            shared=shared,
            warning=_warning(records),
            matrices=matrices,
            tuned=_tuned(sources),
            findings=[*findings.groups(records), *_insights(sources)],
            versus=versus.against_the_first(sources),
            failures=_failures(records),
        )


def _tuned(sources: Sequence[Source]) -> list[tuple[str, Sequence[str]]]:
    """What each contest of the runs that tuned ended with."""
    return [
        (tuning.title(one), tuning.sentences(one, source.tuning))
        for source in sources
        if source.tuning is not None
        for one in source.tuned
    ]


def _insights(sources: Sequence[Source]) -> list[tuple[str, Sequence[str]]]:
    """Of the rows of all runs; with the ceilings and the memory of the machine, if it is one."""
    records = [record for source in sources for record in source.records]
    file = sources[0].file if len({source.devices for source in sources}) == 1 else None
    found: list[tuple[str, Sequence[str]]] = []
    for paragraph in insights.paragraphs(insight.insights(records, file)):
        rest = [f"{paragraph.more} more of this kind: `vitbench insight`"] if paragraph.more else []
        found.append((paragraph.title, [*paragraph.sentences, *rest]))
    return found


def _counts(records: Sequence[Record]) -> str:
    """How many cases were measured, how many not, by the kind of the reason; their grades."""
    statuses = Counter(str(record["status"]) for record in records)
    text = f"{statuses[MEASURED]} of {len(records)} cases measured"
    others = [f"{n} {kind.replace('_', ' ')}" for kind, n in statuses.items() if kind != MEASURED]
    grades = trust.summary(Counter(str(r["trust"]) for r in records if r["trust"]))
    return ", ".join([text, *others]) + (f"; trust {grades}" if grades else "")


def _warning(records: Sequence[Record]) -> str:
    measured = [record for record in records if record["status"] == MEASURED]
    poor = sum(str(record["trust"]) not in across_runtimes.TRUSTED for record in measured)
    if 2 * poor <= len(measured):
        return ""
    return (
        f"{poor} of the {len(measured)} measured cases are of trust C or D: something disturbed "
        "the machine, and the order may be chance. `vitbench doctor` says what disturbs it."
    )


def _failures(records: Sequence[Record]) -> list[tuple[str, str, Sequence[str]]]:
    """The most frequent first."""
    cases: dict[tuple[str, str], list[str]] = {}
    for record in records:
        if record["status"] not in (MEASURED, COUNTED):
            key = str(record["status"]).replace("_", " "), str(record["message"] or "")
            cases.setdefault(key, []).append(name_of(record))
    ordered = sorted(cases.items(), key=lambda item: -len(item[1]))
    return [(status, message, names) for (status, message), names in ordered]
