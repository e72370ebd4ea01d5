"""Ours beside the published figures, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from vitbench.published import Beside, Figure, beside, relative
from vitbench.record import Record


def table(records: Sequence[Record], figures: Sequence[Figure], anchor: str) -> tuple[Table, str]:
    """A table with one row a case, and the notes below it.

    Throughput stands as it is and over the anchor's: other machines' figures compare in that only.
    """
    pairs = beside(records, figures)
    devices = list(dict.fromkeys(f.device for f in figures if f.quantity == "throughput"))
    ratios = relative(records, figures, anchor)
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("subject")
    for title in ("params M", "published", "MACs M", "published", "images/s", f"/ {anchor}"):
        drawn.add_column(title, justify="right")
    for device in devices:
        drawn.add_column(device.rpartition(" ")[2] + " images/s", justify="right")
        drawn.add_column(f"/ {anchor}", justify="right")
    notes: list[str] = []
    for record in records:
        mine = [pair for pair in pairs if pair.case == record["case"]]
        if mine:
            drawn.add_row(*_row(record, mine, devices, ratios, notes))
    lines = [f"[{number}] {note}" for number, note in enumerate(notes, start=1)]
    return drawn, "\n".join(lines)


def _row(
    record: Record,
    mine: Sequence[Beside],
    devices: Sequence[str],
    ratios: dict[tuple[str, str], float],
    notes: list[str],
) -> list[str]:
    cells = [str(record["attention"] or record["backbone"])]
    for quantity in ("params", "macs"):
        cells += _counts([pair for pair in mine if pair.figure.quantity == quantity], notes)
    throughput = record["throughput_img_s"]
    cells.append("-" if throughput is None else f"{float(throughput):.0f}")
    cells.append(_ratio(ratios.get((str(record["case"]), "ours"))))
    for device in devices:
        here = [p for p in mine if p.figure.quantity == "throughput" and p.figure.device == device]
        cells.append(str(here[0].figure.value) if here else "")
        cells.append(_ratio(ratios.get((here[0].figure.name, device))) if here else "")
    return cells


def _counts(pairs: Sequence[Beside], notes: list[str]) -> list[str]:
    """Ours and the published count, with the number of the note where they differ."""
    if not pairs:
        return ["", ""]
    pair = pairs[0]
    mark = ""
    if pair.equal is False:
        text = f"{pair.figure.name}: {pair.note or 'no reason is known'}"
        if text not in notes:
            notes.append(text)
        mark = f" [{notes.index(text) + 1}]"
    return [(pair.ours or "-") + mark, str(pair.figure.value)]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
