"""Ours beside the published figures, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from vitbench.analysis.published import (
    RATES,
    Beside,
    Figure,
    beside,
    relative_ours,
    relative_published,
)
from vitbench.render import tables, units
from vitbench.results.record import Record

_COUNTED = (("params", "params"), ("macs", "MACs"), ("macs_formula", "by formula"))


def table(records: Sequence[Record], figures: Sequence[Figure], anchor: str) -> tuple[Table, str]:
    """A table with one row a case, and the notes below it.

    Throughput stands as it is and over the anchor's: other machines' figures compare in that only.
    """
    rows = _Rows(beside(records, figures), relative_ours(records, anchor), records)
    rows.theirs = relative_published(figures, anchor)
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("subject")
    for title in rows.titles(figures, anchor):
        drawn.add_column(title, justify="right")
    for record in records:
        if any(pair.case == record["case"] for pair in rows.pairs):
            drawn.add_row(*rows.cells(record))
    lines = [
        f"[{number}] {'; '.join(names)}: {reason}"
        for number, (reason, names) in enumerate(rows.notes.items(), start=1)
    ]
    return drawn, "\n".join(lines)


@dataclass(slots=True)
class _Rows:
    """Cells of the table, and the notes that they refer to: what is said, and of which figures."""

    pairs: Sequence[Beside]
    ours: dict[str, float]
    records: Sequence[Record]
    theirs: dict[Figure, float] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)

    @property
    def devices(self) -> list[str]:
        """Those whose times stand beside a row of ours."""
        timed = [pair.figure for pair in self.pairs if pair.figure.quantity in RATES]
        return list(dict.fromkeys(figure.device for figure in timed))

    @property
    def counted(self) -> list[tuple[str, str]]:
        """(quantity, title) of what is counted in any of them."""
        found = {pair.figure.quantity for pair in self.pairs}
        return [(name, title) for name, title in _COUNTED if name in found]

    def titles(self, figures: Sequence[Figure], anchor: str) -> list[str]:
        """Of all columns but the first."""
        named = {str(f.quantity): f.unit.replace("1", "") for f in reversed(figures)}
        titles = []
        for name, title in self.counted:
            titles += [f"{title} {named[name]}".strip(), "published"]
        titles += ["images/s", f"/ {anchor}"]
        for device in self.devices:
            titles += [device.rpartition(" ")[2] + " images/s", f"/ {anchor}"]
        return titles

    def cells(self, record: Record) -> list[str]:
        """A row."""
        case = str(record["case"])
        throughput = record["throughput_img_s"]
        own = tables.own_setting(record, "settings", self.records)
        return [
            f"{record['attention'] or record['backbone']} {own}".strip(),
            *(cell for name, _ in self.counted for cell in self._counts(self._of(case, name))),
            "-" if throughput is None else units.significant(float(throughput)),
            _ratio(self.ours.get(case)),
            *(cell for device in self.devices for cell in self._times(case, device)),
        ]

    def _of(self, case: str, quantity: str) -> list[Beside]:
        return [p for p in self.pairs if p.case == case and p.figure.quantity == quantity]

    def _rates(self, case: str) -> list[Beside]:
        return [p for p in self.pairs if p.case == case and p.figure.quantity in RATES]

    def _times(self, case: str, device: str) -> list[str]:
        here = [p.figure for p in self._rates(case) if p.figure.device == device]
        return [str(here[0].value), _ratio(self.theirs.get(here[0]))] if here else ["", ""]

    def _counts(self, pairs: Sequence[Beside]) -> list[str]:
        """Ours and the published count, with the number of a note where there is one to make."""
        if not pairs:
            return ["", ""]
        pair, mark = pairs[0], ""
        note = pair.figure.note or ("no reason is known" if pair.equal is False else "")
        if note:
            names = self.notes.setdefault(note, [])
            if pair.figure.name not in names:
                names.append(pair.figure.name)
            mark = f" [{list(self.notes).index(note) + 1}]"
        return [(pair.ours or "-") + mark, str(pair.figure.value)]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
