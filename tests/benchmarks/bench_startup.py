"""How long the command takes to answer: `python tests/benchmarks/bench_startup.py`.

Prints the median time of `vitbench --help` and of a wrong option beside `python -c pass`, each
run 10 times in turn, so that a busy moment of the machine does not fall on one of them alone.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 10
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "vitbench --help": ["-m", "vitbench", "--help"],
    "vitbench run --help": ["-m", "vitbench", "run", "--help"],
    "vitbench --wrong-option": ["-m", "vitbench", "--wrong-option"],
    "vitbench run --wrong-option": ["-m", "vitbench", "run", "--wrong-option"],
}


def seconds(arguments: list[str]) -> float:
    """Time of one run, from start to exit."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=False)
    return time.perf_counter() - start


def main() -> None:
    """Runs every command once unmeasured, then RUNS times in turn, and prints a table."""
    for arguments in COMMANDS.values():
        seconds(arguments)
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, arguments in COMMANDS.items():
            taken[name].append(seconds(arguments))
    print(f"{'command':30} {'median s':>9} {'least s':>9} {'most s':>9}")
    for name, times in taken.items():
        middle = statistics.median(times)
        print(f"{name:30} {middle:9.3f} {min(times):9.3f} {max(times):9.3f}")


if __name__ == "__main__":
    main()
