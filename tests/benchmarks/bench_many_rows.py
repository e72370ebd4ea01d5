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

_START = "import sys, pathlib; from vitbench.cli import judge; from vitbench.results import rows\n"
_LOAD = "judge.records(pathlib.Path(sys.argv[1]))"


def run(options: Options) -> Section:
    """Each command once on growing runs, its process from start to exit; what it takes beyond
    starting and loading its runs is the step itself."""
    sizes = (1000, 4000) if options.quick else (10_000, 30_000, 100_000)
    times: dict[str, list[float]] = {name: [] for name in ("loading", *COMMANDS)}
    start_s = seconds(["-c", _START])
    with tempfile.TemporaryDirectory() as folder:
        for n in sizes:
            run = synthetic.folder(Path(folder, str(n)), synthetic.many(n))
            times["loading"].append(seconds(["-c", _START + _LOAD, str(run)]))
            for name, words in COMMANDS.items():
                command = ["-m", "vitbench", *(word.format(run) for word in words)]
                times[name].append(seconds(command))
    load_s = times["loading"][-1] - start_s
    loads = {name: words.count("{}") for name, words in COMMANDS.items()}
    steps = {name: own[-1] - start_s - loads.get(name, 0) * load_s for name, own in times.items()}
    longest = max(steps.values())
    lines = [
        (name, *(f"{s:.1f}" for s in own), f"{max(0.0, steps[name]):.1f}")
        for name, own in times.items()
    ]
    parts = [
        tables.markdown(("seconds", *(f"{n:,} rows" for n in sizes), "the step itself"), lines),
        "From the start of the process to its exit; the step itself, of the most rows, without "
        f"starting and loading. Goal: {GOAL_S:g} s for loading and for each step: "
        f"{verdict(longest <= GOAL_S)} (the longest {longest:.1f} s).",
    ]
    rows = [
        {"command": name, "rows": n, "seconds": s}
        for name, own in times.items()
        for n, s in zip(sizes, own, strict=True)
    ]
    return Section("Many rows", parts, rows, {"longest_s": longest})
