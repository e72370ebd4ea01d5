"""OpenMetrics: for Prometheus, Grafana and their like."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from vitbench.render.export import Format, Results
from vitbench.render.export._figures import PUBLISHED, published
from vitbench.render.labels import resolution
from vitbench.results.record import Record, subject_of

if TYPE_CHECKING:
    from prometheus_client.core import Metric

FORMAT = Format(
    name="openmetrics",
    summary="gauges in base units, for Prometheus's text collector or push gateway",
    suffix=".prom",
    packages=("prometheus_client",),
)
# Name without its unit, unit, column, and what it is.
_GAUGES = (
    ("vitbench_latency", "seconds", "latency_s", "Median time of one call on the whole batch"),
    ("vitbench_latency_low", "seconds", "latency_low_s", "Lower end of its 95% interval"),
    ("vitbench_latency_high", "seconds", "latency_high_s", "Upper end of its 95% interval"),
    ("vitbench_throughput", "images_per_second", "throughput_img_s", "Batch size over latency"),
    ("vitbench_peak_memory", "bytes", "peak_memory_bytes", "Peak memory of one call"),
    ("vitbench_macs", "", "macs", "Multiply-accumulates of one image"),
    ("vitbench_params", "", "params", "Parameters"),
    ("vitbench_published_top1", "percent", PUBLISHED[0].name, PUBLISHED[0].meaning),
)
_LABELS = ("case", "subject", "device", "runtime", "impl", "dtype", "batch_size", "resolution")
_INFO = ("mode", "settings", "status", "message", "trust", "trust_reasons", "device_name", "torch")


def render(results: Results) -> Mapping[str, bytes]:
    """A gauge a quantity, and `vitbench_case_info` with what is text: the status of every row and
    the reason where it was not measured."""
    from prometheus_client.openmetrics.exposition import generate_latest
    from prometheus_client.registry import CollectorRegistry

    registry = CollectorRegistry()
    registry.register(_Collector(results))
    return {"": generate_latest(registry)}


class _Collector:
    """Gives the metrics to the library that writes them."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        rows = [record | published(record) for record in self._results.records]
        labels = [_labels(row) for row in rows]
        for name, unit, column, meaning in _GAUGES:
            full = f"{name}_{unit}" if unit else name
            gauge = GaugeMetricFamily(full, meaning, labels=_LABELS, unit=unit)
            for row, own in zip(rows, labels, strict=True):
                if (value := row[column]) is not None:
                    gauge.add_metric(own, float(str(value)))
            yield gauge
        info = InfoMetricFamily("vitbench_case", "What each case is", labels=_LABELS)
        for row, own in zip(rows, labels, strict=True):
            info.add_metric(own, {name: _text(row[name]) for name in _INFO})
        yield info


def _labels(row: Record) -> list[str]:
    own = {**row, "subject": subject_of(row), "resolution": resolution(row)}
    return [_text(own[name]) for name in _LABELS]


def _text(value: object) -> str:
    """Names of files may hold bytes that are no text."""
    return "" if value is None else str(value).encode(errors="backslashreplace").decode()
