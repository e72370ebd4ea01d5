"""Which implementation to use: for each mechanism and size the fastest of those measured."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from vitbench.analysis.across_runtimes import is_trusted
from vitbench.analysis.compare import IDENTITY, MACHINE
from vitbench.analysis.order import Rounds, Spread
from vitbench.cases.axes import AXES
from vitbench.cases.row import HOW
from vitbench.instruments import memory
from vitbench.render import labels, tables, units
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record, subject_of

_HEADER = ("subject", "px", "dtype", "batch", "use", "images/s", "times", "peak MiB", "because")


def rows(records: Sequence[Record]) -> list[list[str]]:
    """A line for every question that has two answers or more, as they were measured.

    Only rows that may be trusted are read, where two of a question's rows or more are. Where noise
    does not tell the fastest apart, all are named, the one with the least memory first; the fastest
    where their memory does not compare.
    """
    questions: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        if record["status"] == MEASURED:
            shared = [name for name in (*IDENTITY, *MACHINE) if name not in HOW]
            questions.setdefault(tuple(record[name] for name in shared), []).append(record)
    answered = [_trusted(answers) for answers in questions.values() if len(answers) > 1]
    settings = labels.own_settings([answers[0] for answers in answered])
    spread = Spread.of(*map(Rounds.of, answered))
    return [_answer(*pair, spread) for pair in zip(answered, settings, strict=True)]


def _trusted(answers: Sequence[Record]) -> Sequence[Record]:
    """Those from which an order may be read; all where they are too few."""
    trusted = [record for record in answers if is_trusted(record)]
    return trusted if len(trusted) > 1 else answers


def _answer(answers: Sequence[Record], settings: str, spread: Spread) -> list[str]:
    """A line; `settings` are those that tell the case from its neighbours."""
    fastest, slowest = min(answers, key=_latency), max(answers, key=_latency)
    level = [record for record in answers if spread.gap(fastest, record) <= 1]
    compares = _memory_compares(level)
    used, *others = sorted(level, key=_peak if compares else _latency)
    times = _latency(slowest) / _latency(used)
    why = f"{_named(slowest)} takes {times:.2f} times as long"
    if others:
        names = ", ".join(_named(record) for record in others)
        why = f"as fast as {names} within noise"
        why += ", and takes no more memory" if compares else "; their memory does not compare"
    return [
        f"{subject_of(used)} {settings}".strip(),
        f"{used['image_height']}x{used['image_width']}",
        str(used["dtype"]),
        str(used["batch_size"]),
        _named(used),
        units.significant(_number(used, "throughput_img_s")),
        f"{times:.2f}",
        tables.peak(used),
        "; ".join([why, *_remarks(used)]),
    ]


def _remarks(used: Record) -> list[str]:
    """What else there is to know of the one that is recommended."""
    remarks = [str(used["fallback"])] if used["fallback"] else []
    if not is_trusted(used):
        remarks.append(f"of trust {used['trust']}: measure again on a quiet machine")
    if used["launch_bound"]:
        share = _number(used, "device_latency_s") / _number(used, "latency_s")
        remarks.append(
            f"launch-bound: the device computes {share:.0%} of the time, so a graph of the call or "
            "a larger batch would gain"
        )
    return remarks


def _number(record: Record, name: str) -> float:
    return float(str(record[name]))


def _latency(record: Record) -> float:
    return _number(record, "latency_s")


def _peak(record: Record) -> float:
    return _number(record, "peak_memory_bytes")


def _memory_compares(records: Sequence[Record]) -> bool:
    """Whether every peak was read, and in the same exact way: a resident set holds more than the
    call takes, and is not the same twice."""
    is_read = all(record["peak_memory_bytes"] is not None for record in records)
    sources = {record["memory_source"] for record in records}
    return is_read and len(sources) == 1 and not sources & {*memory.INEXACT}


def _named(record: Record) -> str:
    others = {name: record[name] for name in HOW if name != "impl"}
    words = [str(value) for name, value in others.items() if value != AXES[name].default]
    return " + ".join([str(record["impl"]), *words])


def table(records: Sequence[Record]) -> Table | None:
    """As a table for the terminal; None where nothing was measured twice."""
    lines = rows(records)
    return tables.listing(_HEADER, lines) if lines else None
