"""How long the command takes to answer without measuring anything."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from tests.benchmarks import Section
from vitbench.render import tables

GOAL_S = 0.4
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "vitbench --help": ["-m", "vitbench", "--help"],
    "vitbench run --help": ["-m", "vitbench", "run", "--help"],
    "vitbench --wrong-option": ["-m", "vitbench", "--wrong-option"],
    "vitbench run --wrong-option": ["-m", "vitbench", "run", "--wrong-option"],
    "vitbench list": ["-m", "vitbench", "list"],
}


def seconds(arguments: list[str]) -> float:
    """Time of one run, from start to exit."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return time.perf_counter() - start


def run(*, quick: bool) -> Section:
    """Every command once unmeasured, then in turn, so that a busy moment hits not one alone."""
    for arguments in COMMANDS.values():
        seconds(arguments)
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(3 if quick else 20):
        for name, arguments in COMMANDS.items():
            taken[name].append(seconds(arguments))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    rows = [
        (f"`{name}`", f"{medians[name]:.3f}", f"{min(times):.3f}", f"{max(times):.3f}")
        for name, times in taken.items()
    ]
    slowest = max(seconds for name, seconds in medians.items() if name != "vitbench list")
    verdict = "met" if slowest < GOAL_S else "missed"
    return Section(
        "Start of the command",
        tables.markdown(("command", "median s", "least s", "most s"), rows)
        + f"\n\nGoal: help and a wrong option in under {GOAL_S} s: {verdict} ({slowest:.2f} s).",
        [{"command": name, "seconds": s} for name, times in taken.items() for s in times],
        {"slowest_s": slowest},
    )
