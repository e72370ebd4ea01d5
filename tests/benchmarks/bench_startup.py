"""How long the command takes to answer without measuring anything."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial

from tests.benchmarks import Options, Section, verdict
from tests.benchmarks.side_by_side import interleave
from tests.vitbench.examples import ROOT
from vitbench.analysis import stats
from vitbench.render import tables

GOAL_S = 0.4
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    **{
        f"vitbench {arguments}": ["-m", "vitbench", *arguments.split()]
        for arguments in ("--help", "run --help", "--wrong-option", "run --wrong-option", "list")
    },
}


def seconds(arguments: list[str]) -> float:
    """Time of one run, from start to exit."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=False)
    return time.perf_counter() - start


def run(options: Options) -> Section:
    """Every command once unmeasured, then in turns."""
    variants = {name: partial(seconds, arguments) for name, arguments in COMMANDS.items()}
    for variant in variants.values():
        variant()
    readings = interleave(variants, 1 if options.quick else 10)
    medians = {name: stats.median(times) for name, times in readings.items()}
    lines = [
        (f"`{name}`", f"{medians[name]:.3f}", f"{min(times):.3f}", f"{max(times):.3f}")
        for name, times in readings.items()
    ]
    slowest = max(seconds for name, seconds in medians.items() if name != "vitbench list")
    met = f"{verdict(slowest < GOAL_S)} ({slowest:.2f} s)"
    parts = [
        tables.markdown(("command", "median s", "least s", "most s"), lines),
        f"Goal: help and a wrong option in under {GOAL_S} s: {met}.",
    ]
    rows = [{"command": name, "seconds": s} for name, times in readings.items() for s in times]
    return Section("Start of the command", parts, rows, {"slowest_s": slowest})
