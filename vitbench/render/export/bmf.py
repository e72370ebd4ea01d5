"""Bencher Metric Format: for `bencher run --adapter json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vitbench.render.export import Format, Results
from vitbench.render.export._figures import json_bytes
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record

FORMAT = Format(
    name="bmf",
    summary="Bencher Metric Format, intervals as lower_value and upper_value",
    suffix=".json",
)
# A benchmark of such a name raises no alert.
_IGNORED = "-bencher-ignore"
_NS = 1e9


def render(results: Results) -> Mapping[str, bytes]:
    """A benchmark a case, without measures where it was not measured.

    Latency is in nanoseconds, as Bencher's own measure of that name.
    """
    names = results.names()
    return {
        "": json_bytes(
            {_name(record, names): dict(_measures(record)) for record in results.records}
        )
    }


def _name(record: Record, names: Mapping[str, str]) -> str:
    return names[str(record["case"])] + (_IGNORED if record["trust"] == "D" else "")


def _measures(record: Record) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if record["status"] == MEASURED:
        yield "latency", _metric(record, "latency_s", "latency_low_s", "latency_high_s", _NS)
        ends = ("throughput_low_img_s", "throughput_high_img_s")
        yield "throughput", _metric(record, "throughput_img_s", *ends)
    for measure, column in (("peak-memory", "peak_memory_bytes"), ("macs", "macs")):
        if record[column] is not None:
            yield measure, {"value": record[column]}


def _metric(record: Record, value: str, low: str, high: str, scale: float = 1.0) -> dict[str, Any]:
    columns = {"value": value, "lower_value": low, "upper_value": high}
    return {
        name: float(str(record[column])) * scale
        for name, column in columns.items()
        if record[column] is not None
    }
