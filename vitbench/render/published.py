"""Ours beside the published figures, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from vitbench.analysis import published
from vitbench.analysis.published import RATES, Figure, PublishedComparison
from vitbench.render import labels, tables, units
from vitbench.results.record import Record, subject_of

_COUNTED = {"params": "params", "macs": "MACs", "macs_formula": "by formula"}


def table(
    records: Sequence[Record], figures: Sequence[Figure], reference: str
) -> tuple[Table, str]:
    """A table with one row a case, and the notes below it.

    Throughput stands as it is and over the reference's: figures of other machines compare in that
    only.
    """
    compared = published.comparisons(records, figures)
    quantities = {pair.figure.quantity for pair in compared}
    counted = [quantity for quantity in _COUNTED if quantity in quantities]
    rates = [pair.figure for pair in compared if pair.figure.quantity in RATES]
    devices = list(dict.fromkeys(figure.device for figure in rates))
    ours = published.relative_ours(records, reference)
    theirs = published.relative_published(figures, reference)
    titles = list(_titles(counted, devices, figures, reference))
    notes: dict[str, list[str]] = {}
    rows = []
    for record, own in zip(records, labels.own_settings(records), strict=True):
        pairs = [pair for pair in compared if pair.case == record["case"]]
        if not pairs:
            continue
        cells = [f"{subject_of(record)} {own}".strip()]
        for quantity in counted:
            cells += _counts([pair for pair in pairs if pair.figure.quantity == quantity], notes)
        throughput = record["throughput_img_s"]
        cells += ["-" if throughput is None else units.significant(float(throughput))]
        cells += [_ratio(ours.get(str(record["case"])))]
        for device in devices:
            here = [pair.figure for pair in pairs if pair.figure.device == device]
            here = [figure for figure in here if figure.quantity in RATES]
            cells += [str(here[0].value), _ratio(theirs.get(here[0]))] if here else ["", ""]
        rows.append(cells)
    texts = (f"{'; '.join(names)}: {note}" for note, names in notes.items())
    lines = [f"[{number}] {text}" for number, text in enumerate(texts, start=1)]
    return tables.listing(["subject", *titles], rows, right=titles), "\n".join(lines)


def _titles(
    counted: Sequence[str], devices: Sequence[str], figures: Sequence[Figure], reference: str
) -> Iterator[str]:
    """Of all columns but the first."""
    unit_of = {str(f.quantity): f.unit.replace("1", "") for f in reversed(figures)}
    for quantity in counted:
        yield f"{_COUNTED[quantity]} {unit_of[quantity]}".strip()
        yield "published"
    for title in ("", *(device.rpartition(" ")[2] for device in devices)):
        yield f"{title} images/s".strip()
        yield f"/ {reference}"


def _counts(pairs: Sequence[PublishedComparison], notes: dict[str, list[str]]) -> list[str]:
    """Ours and the published count, with the number of a note where there is one to make."""
    if not pairs:
        return ["", ""]
    pair, mark = pairs[0], ""
    note = pair.figure.note or ("no reason is known" if pair.equal is False else "")
    if note:
        names = notes.setdefault(note, [])
        if pair.figure.name not in names:
            names.append(pair.figure.name)
        mark = f" [{list(notes).index(note) + 1}]"
    return [(pair.ours or "-") + mark, str(pair.figure.value)]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
