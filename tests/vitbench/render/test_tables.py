"""Tables for the terminal and for Markdown."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from tests.vitbench.examples import case, facts, measured
from vitbench.render import tables
from vitbench.results.outcome import Failed
from vitbench.results.record import Record, build_record


def printed(table: Table) -> str:
    """As a wide terminal shows it."""
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def row(**changes: object) -> Record:
    """A measured row of a case."""
    return build_record(case(**changes), [measured()])


def test_a_row_of_figures() -> None:
    """Throughput, noise, latency, MACs, parameters, memory and grade, in readable units."""
    (header, line) = printed(tables.results([row()])).splitlines()
    assert " ".join(header.split()) == (
        "subject px images/s ± ms a call MACs params peak MiB trust"
    )
    assert " ".join(line.split()) == "msa 64 200 0.0% 10.0 81.9 k 4.22 k 0.0381 B"


def test_a_lower_bound_and_its_note() -> None:
    """MACs that are more than what was counted say so, and each note is a line once."""
    note = "macs: a lower bound, without a thread"
    record = build_record(case(), [measured(facts=facts(macs_is_lower_bound=True, notes=note))])
    assert " ≥ 81.9 k " in printed(tables.results([record]))
    assert tables.notes([record, record, row()]) == [f"msa: {note}"]
    many = [record | {"notes": str(index)} for index in range(12)]
    assert tables.notes(many, most=10)[10:] == ["and 2 more in the column `notes`"]


def test_a_resident_peak_is_marked() -> None:
    """A note under the table says that it does not compare with an allocator's peak."""
    exact, resident = (row() | {"memory_source": name} for name in ("allocator", "resident"))
    lines = printed(tables.results([exact, resident])).splitlines()
    assert ["0.0381 *" in line for line in lines] == [False, False, True]
    (note,) = tables.notes([exact, resident])
    assert note.startswith("* with the runtime's own buffers")
    assert tables.results_markdown([exact, resident]).endswith(f"\n\n\\{note}")
    assert "resident" not in tables.results_markdown([exact])
    assert tables.notes([exact, resident | {"peak_memory_bytes": None}]) == []


def test_the_devices_own_time() -> None:
    """Beside the latency, where it was read apart."""
    bound = build_record(case(), [measured(device_samples_s=(0.004,) * 20)])
    quick = build_record(case(), [measured(device_samples_s=(0.0099,) * 20)])
    lines = printed(tables.results([bound, quick, row()])).splitlines()
    assert " device time " in lines[0]
    assert " 4.00 ms, launch-bound " in lines[1]
    assert " 9.90 ms " in lines[2]
    assert "ms," not in lines[2] + lines[3]


def test_settings_are_shown_where_they_vary() -> None:
    """A column that says the same in each line is left out."""
    text = printed(tables.results([row(), row(dtype="bfloat16", cold=True)]))
    header = text.splitlines()[0]
    assert "dtype" in header
    assert "cold" in header
    assert "batch" not in header
    assert "bfloat16" in text


def test_hyper_parameters_are_compared_inside_a_mechanism() -> None:
    """alpha of HiLo is shown where it differs between rows of HiLo; what they share is not."""
    rows = [
        row(attention="hilo", params=(("alpha", alpha), ("window_size", 2))) for alpha in (0.5, 0.9)
    ]
    text = printed(tables.results([*rows, row()]))
    assert "alpha=0.5" in text
    assert "window_size" not in text
    assert "qkv_bias" not in text
    assert "settings" not in printed(tables.results([rows[0], row()]))


def test_a_failure_says_why() -> None:
    """In the place of figures; square brackets in it are text."""
    record = build_record(case(), [Failed("error", "ValueError: got [1, 2] and [bold]")])
    assert "error: ValueError: got [1, 2] and [bold]" in printed(tables.results([record]))


def test_no_rows() -> None:
    """A run without rows has a table without lines."""
    assert len(printed(tables.results([])).splitlines()) == 1


def test_listing() -> None:
    """A header and the rows as they are."""
    text = printed(tables.listing(("name", "what"), [("a", "b c"), ("d", "e")]))
    assert [line.split() for line in text.splitlines()] == [
        ["name", "what"],
        ["a", "b", "c"],
        ["d", "e"],
    ]


def test_markdown() -> None:
    """A table that GitHub draws."""
    text = tables.markdown(("column", "unit"), [("`macs`", "MACs"), ("`a`", "")])
    assert text.splitlines() == [
        "| column | unit |",
        "| --- | --- |",
        "| `macs` | MACs |",
        "| `a` |  |",
    ]


def test_results_as_markdown() -> None:
    """The terminal's cells, figures to the right; a bar in a message does not end its cell."""
    failed = build_record(case(attention="sra"), [Failed("error", "got a|b")])
    header, aligned, first, second = tables.results_markdown([row(), failed]).splitlines()
    assert header.startswith("| subject | px | images/s | ± |")
    assert aligned.startswith("| --- | ---: |")
    assert aligned.endswith("| --- |")
    assert [cell.strip() for cell in first.split("|")[1:4]] == ["msa", "64", "200"]
    assert "error: got a\\|b" in second
