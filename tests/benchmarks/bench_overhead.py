"""The share of a sweep's wall time that is not spent measuring."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

from tests.benchmarks import Options, Section, measured, verdict
from vitbench.render import tables
from vitbench.results.folder import JOURNAL
from vitbench.results.journal import CONVERSION

GOAL = 0.25


def spent(folder: Path) -> Counter[str]:
    """Seconds of every pass, summed over the outcomes of a run, and of what else its journal says.
    What torch.compile did not find in its caches counts as conversion."""
    total: Counter[str] = Counter()
    for line in (folder / JOURNAL).read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["event"] == "spent":
            total[entry["what"]] += entry["seconds"]
        if entry["event"] != "outcome" or "measured" not in entry["outcome"]:
            continue
        outcome = entry["outcome"]["measured"]
        passes = Counter(outcome["spent_s"])
        if outcome["compile_s"] is not None and not outcome["is_cached"]:
            passes[CONVERSION] = passes.pop("prepare")
        total.update(passes)
    return total


def share_not_measuring(wall_s: float, measuring_s: float) -> float:
    """What is left of the wall time. Raises ValueError where more was measured than passed."""
    if not 0 <= measuring_s <= wall_s:
        raise ValueError(f"{measuring_s} s of measuring do not fit into {wall_s} s")
    return 1 - measuring_s / wall_s


def parts(wall_s: float, passes: Counter[str]) -> str:
    """What a run's time went into, as a table."""
    rest_s = wall_s - sum(passes.values())
    lines = [
        (name, f"{seconds:.1f}", f"{seconds / wall_s:.1%}")
        for name, seconds in [*passes.most_common(), ("planning, ends of workers, charts", rest_s)]
    ]
    return tables.markdown(("pass", "s", "share"), lines)


def run(options: Options) -> Section:
    """The suite `quick` at the default effort, on the CPU."""
    arguments = ["run", "quick", "--device", "cpu", "--quiet"]
    arguments += ["--effort", "quick" if options.quick else "default"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        wall_s = measured(*arguments, "--out", str(out))
        passes = spent(out)
    share = share_not_measuring(wall_s, passes["timing"] + passes["energy"])
    text = [
        f"`vitbench {' '.join(arguments)}` took {wall_s:.0f} s. Measuring is warm-up and sampling "
        "(`timing`), and the reading of energy where there is a counter (`energy`).",
        parts(wall_s, passes),
        f"Goal: at most {GOAL:.0%} not measuring: {verdict(share <= GOAL)} ({share:.1%}).",
    ]
    rows = [{"pass": name, "seconds": seconds} for name, seconds in passes.items()]
    return Section("Time not spent measuring", text, rows, {"share": share})
