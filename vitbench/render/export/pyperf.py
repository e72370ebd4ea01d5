"""pyperf's JSON: for `python -m pyperf stats`, `hist` and `compare_to`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitbench.errors import BadInput
from vitbench.render import text
from vitbench.render.export import Format, Results
from vitbench.render.export._figures import json_bytes
from vitbench.results.record import Record

FORMAT = Format(
    name="pyperf",
    summary="every sample, a run for each round, for pyperf's own commands",
    suffix=".json",
    shows_failures=False,
)
_VERSION = "1.0"  # of pyperf's format
_TEXTS = ("device", "dtype", "runtime", "device_name", "torch", "trust", "trust_reasons")


def render(results: Results) -> Mapping[str, bytes]:
    """A benchmark a case; its values are seconds of one call.

    Where the samples are not beside the records, the medians of the rounds stand for them. Raises
    BadInput where nothing was measured.
    """
    measured = results.measured()
    if not measured:
        raise BadInput(
            f"{results.path} holds no measurement: pyperf knows no file without a benchmark"
        )
    names, samples = results.names(), results.samples()
    benchmarks = []
    for record in measured:
        case = str(record["case"])
        medians = [[float(word)] for word in str(record["round_medians"]).split()]
        runs = [{"values": values} for values in samples.get(case) or medians]
        benchmarks.append({"metadata": _metadata(record, names[case]), "runs": runs})
    # Written here and not by the package, which takes a minute for thousands of benchmarks.
    return {"": json_bytes({"version": _VERSION, "benchmarks": benchmarks})}


def _metadata(record: Record, name: str) -> dict[str, Any]:
    """No text is empty or has a line end: pyperf refuses them."""
    texts = {column: text.visible(str(record[column] or "")).strip() for column in _TEXTS}
    metadata: dict[str, Any] = {column: value for column, value in texts.items() if value}
    metadata |= {"name": name, "unit": "second"}
    if record["calls_per_sample"]:
        metadata["loops"] = record["calls_per_sample"]
    return metadata
