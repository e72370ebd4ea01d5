"""JSON for benchmark-action/github-action-benchmark: a file for each direction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vitbench.render import text
from vitbench.render.export import Format, Results
from vitbench.render.export._figures import json_bytes
from vitbench.results.record import Record

FORMAT = Format(
    name="github-benchmark",
    summary="two files for github-action-benchmark: customBiggerIsBetter, customSmallerIsBetter",
    suffix=".json",
    shows_failures=False,
)
# Title, unit, column and the ends of its interval, by the factor of the unit.
_THROUGHPUT = ("throughput", "images/s", "throughput_img_s", 1.0)
_LATENCY = ("latency", "ms", "latency_s", 1e3)
_MEMORY = ("peak memory", "MiB", "peak_memory_bytes", 1 / 2**20)
_ENDS = {
    "throughput_img_s": ("throughput_low_img_s", "throughput_high_img_s"),
    "latency_s": ("latency_low_s", "latency_high_s"),
}


def render(results: Results) -> Mapping[str, bytes]:
    """Throughput in the one file, latency and peak memory in the other."""
    names = results.names()
    bigger = list(_entries(results.measured(), names, [_THROUGHPUT]))
    smaller = list(_entries(results.measured(), names, [_LATENCY, _MEMORY]))
    return {"-bigger": json_bytes(bigger), "-smaller": json_bytes(smaller)}


def _entries(
    records: Sequence[Record],
    names: Mapping[str, str],
    quantities: Sequence[tuple[str, str, str, float]],
) -> Iterator[dict[str, Any]]:
    for record in records:
        for title, unit, column, factor in quantities:
            if record[column] is None:
                continue
            entry = {
                "name": f"{names[str(record['case'])]}: {title}",
                "unit": unit,
                "value": float(str(record[column])) * factor,
            }
            ends = [record[end] for end in _ENDS.get(column, ())]
            if ends and None not in ends:
                low, high = (float(str(end)) * factor for end in ends)
                entry["range"] = f"95% interval {low:.4g} to {high:.4g}"
            yield entry | {"extra": _extra(record)}


def _extra(record: Record) -> str:
    """A line for each fact that the chart's tooltip shows."""
    facts = (str(record[name] or "") for name in ("device_name", "torch", "trust_reasons"))
    device, torch, reasons = map(text.visible, facts)
    trust = f"trust {record['trust']}" + (f": {reasons}" if reasons else "")
    return "\n".join([device, f"torch {torch}", *([trust] if record["trust"] else [])])
