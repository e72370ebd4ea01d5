"""The same plan several times: spread of the medians, coverage of the intervals, exact columns."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from tests.benchmarks import Options, Section, measured
from vitbench.analysis import stats
from vitbench.render import tables
from vitbench.results import frame
from vitbench.results.columns import EXACT_COLUMNS


def runs(count: int, effort: str, folder: Path) -> list[pd.DataFrame]:
    """The rows of so many runs of five mechanisms, one after the other."""
    arguments = ["run", "quick", "--resolution", "224", "--device", "cpu", "--effort", effort]
    folders = [folder / str(number) for number in range(count)]
    for out in folders:
        measured(*arguments, "--quiet", "--out", str(out))
    return [frame.read(out) for out in folders]


def run(options: Options) -> Section:
    """Three runs, or six of the default effort."""
    count = 3 if options.quick else 6
    with tempfile.TemporaryDirectory() as folder:
        repeated = runs(count, "quick" if options.quick else "default", Path(folder))
    exact = [run[list(EXACT_COLUMNS)] for run in repeated]
    same = all(run.equals(exact[0]) for run in exact)
    rows: list[dict[str, Any]] = []
    lines = []
    for index, name in enumerate(repeated[0]["subject"]):
        medians = [float(run["latency_s"][index]) for run in repeated]
        middle = stats.median(medians)
        covering = sum(
            float(run["latency_low_s"][index]) <= middle <= float(run["latency_high_s"][index])
            for run in repeated
        )
        spread = max(medians) / min(medians) - 1
        lines.append((str(name), f"{spread:.1%}", f"{covering} of {count}"))
        rows += [
            {"attention": name, "run": number, "latency_s": latency, "spread": spread}
            for number, latency in enumerate(medians)
        ]
    spreads = sorted({float(row["spread"]) for row in rows})
    typical = stats.median(spreads)
    header = ("mechanism", "largest median over smallest", "intervals that hold the middle")
    equal = "the same bytes in every run." if same else "NOT the same in every run."
    parts = [
        f"{count} runs of one plan, each of several fresh processes.",
        tables.markdown(header, lines),
        f"Parameters, MACs, peak memory and every other exact column: {equal} Spread of the "
        f"medians: {typical:.1%} for the middle mechanism, {spreads[-1]:.1%} at most. Smaller "
        "differences cannot be judged between runs: measure both sides in one run.",
    ]
    figures = {"spread": typical, "worst": spreads[-1], "exact": float(same)}
    return Section("Repeated runs", parts, rows, figures)
