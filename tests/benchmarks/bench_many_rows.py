"""How long the commands that read rows take on many of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests import synthetic_records as synthetic
from tests.benchmarks import Options, Section, verdict
from tests.benchmarks.bench_startup import seconds
from vitbench.render import tables

GOAL_S = 5.0
COMMANDS = {
    "table": ("table", "{}"),
    "table, one runtime": ("table", "{}", "--runtime", "openvino"),
    "compare": ("compare", "{}", "{}"),
    "insight": ("insight", "{}"),
    "advise": ("advise", "{}", *["--resolution", "128", "--batch-size", "8", "--dtype", "float32"]),
}


def run(options: Options) -> Section:
    """Each command once on growing runs, its process from start to exit."""
    sizes = (1000, 4000) if options.quick else (10_000, 30_000, 100_000)
    rows, lines = [], []
    with tempfile.TemporaryDirectory() as folder:
        runs = {n: synthetic.folder(Path(folder, str(n)), synthetic.many(n)) for n in sizes}
        for name, words in COMMANDS.items():
            times = {
                n: seconds(["-m", "vitbench", *(word.format(run) for word in words)])
                for n, run in runs.items()
            }
            rows += [{"command": name, "rows": n, "seconds": s} for n, s in times.items()]
            lines.append((name, *(f"{s:.1f}" for s in times.values())))
    longest = max(float(str(row["seconds"])) for row in rows)
    parts = [
        tables.markdown(("seconds, start to exit", *(f"{n:,} rows" for n in sizes)), lines),
        f"Goal: loading and the step itself in {GOAL_S} s each: {verdict(longest < 2 * GOAL_S)} "
        f"(the longest command {longest:.1f} s, which for `compare` loads two runs).",
    ]
    return Section("Many rows", parts, rows, {"longest_s": longest})
