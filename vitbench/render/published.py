"""Ours beside the published figures, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.table import Table

from vitbench.published import Beside, Figure, beside, relative_ours, relative_published
from vitbench.record import Record


def table(records: Sequence[Record], figures: Sequence[Figure], anchor: str) -> tuple[Table, str]:
    """A table with one row a case, and the notes below it.

    Throughput stands as it is and over the anchor's: other machines' figures compare in that only.
    """
    rows = _Rows(beside(records, figures), relative_ours(records, anchor))
    rows.theirs = relative_published(figures, anchor)
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("subject")
    for title in _titles(figures, anchor, rows.devices):
        drawn.add_column(title, justify="right")
    for record in records:
        if any(pair.case == record["case"] for pair in rows.pairs):
            drawn.add_row(*rows.cells(record))
    lines = [f"[{number}] {note}" for number, note in enumerate(rows.notes, start=1)]
    return drawn, "\n".join(lines)


def _titles(figures: Sequence[Figure], anchor: str, devices: Sequence[str]) -> list[str]:
    units = {figure.quantity: figure.unit.replace("1", "") for figure in reversed(figures)}
    macs = units.get("macs") or units.get("macs_formula", "")
    titles = [f"params {units.get('params', '')}".strip(), "published", f"MACs {macs}".strip()]
    titles += ["published", "images/s", f"/ {anchor}"]
    for device in devices:
        titles += [device.rpartition(" ")[2] + " images/s", f"/ {anchor}"]
    return titles


@dataclass(slots=True)
class _Rows:
    """Cells of the table, and the notes that they refer to."""

    pairs: Sequence[Beside]
    ours: dict[str, float]
    theirs: dict[Figure, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def devices(self) -> list[str]:
        """Those whose times stand beside a row of ours."""
        timed = [pair.figure for pair in self.pairs if pair.figure.quantity == "throughput"]
        return list(dict.fromkeys(figure.device for figure in timed))

    def cells(self, record: Record) -> list[str]:
        case = str(record["case"])
        throughput = record["throughput_img_s"]
        return [
            str(record["attention"] or record["backbone"]),
            *self._counts(self._of(case, "params")),
            *self._counts(self._of(case, "macs") or self._of(case, "macs_formula")),
            "-" if throughput is None else f"{float(throughput):.0f}",
            _ratio(self.ours.get(case)),
            *(cell for device in self.devices for cell in self._times(case, device)),
        ]

    def _of(self, case: str, quantity: str) -> list[Beside]:
        return [p for p in self.pairs if p.case == case and p.figure.quantity == quantity]

    def _times(self, case: str, device: str) -> list[str]:
        here = [p.figure for p in self._of(case, "throughput") if p.figure.device == device]
        return [str(here[0].value), _ratio(self.theirs.get(here[0]))] if here else ["", ""]

    def _counts(self, pairs: Sequence[Beside]) -> list[str]:
        """Ours and the published count, with the number of a note where there is one to make."""
        if not pairs:
            return ["", ""]
        pair, mark = pairs[0], ""
        note = pair.figure.note or ("no reason is known" if pair.equal is False else "")
        if note:
            text = f"{pair.figure.name}: {note}"
            if text not in self.notes:
                self.notes.append(text)
            mark = f" [{self.notes.index(text) + 1}]"
        return [(pair.ours or "-") + mark, str(pair.figure.value)]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
