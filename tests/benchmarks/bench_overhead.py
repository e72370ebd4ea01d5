"""The share of a sweep's wall time that is not spent measuring."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

from tests.benchmarks import Options, Section, measured, verdict
from vitbench.render import tables
from vitbench.results.folder import JOURNAL

GOAL = 0.25


def spent(folder: Path) -> Counter[str]:
    """Seconds of every pass, summed over the outcomes of a run."""
    total: Counter[str] = Counter()
    for line in (folder / JOURNAL).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["event"] == "outcome":
            total.update(entry["outcome"]["measured"]["spent_s"])
    return total


def share_not_measuring(wall_s: float, measuring_s: float) -> float:
    """What is left of the wall time. Raises ValueError where more was measured than passed."""
    if not 0 <= measuring_s <= wall_s:
        raise ValueError(f"{measuring_s} s of measuring do not fit into {wall_s} s")
    return 1 - measuring_s / wall_s


def run(options: Options) -> Section:
    """The suite `quick` at the default effort, on the CPU."""
    arguments = ["run", "quick", "--device", "cpu", "--quiet"]
    arguments += ["--effort", "quick" if options.quick else "default"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        wall_s = measured(*arguments, "--out", str(out))
        passes = spent(out)
    share = share_not_measuring(wall_s, passes["timing"] + passes["energy"])
    parts = {**passes, "processes, imports, ceilings, charts": wall_s - sum(passes.values())}
    lines = [
        (name, f"{seconds:.1f}", f"{seconds / wall_s:.1%}")
        for name, seconds in sorted(parts.items(), key=lambda part: -part[1])
    ]
    text = [
        f"`vitbench {' '.join(arguments)}` took {wall_s:.0f} s. Measuring is warm-up and sampling "
        "(`timing`), and the reading of energy where there is a counter (`energy`).",
        tables.markdown(("pass", "s", "share"), lines),
        f"Goal: at most {GOAL:.0%} not measuring: {verdict(share <= GOAL)} ({share:.1%}).",
    ]
    rows = [{"pass": name, "seconds": seconds} for name, seconds in parts.items()]
    return Section("Time not spent measuring", text, rows, {"share": share})
