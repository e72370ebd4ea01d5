"""Identical runtimes under two names: how often the findings call one of them faster."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks import Options, Section, verdict
from tests.vitbench.examples import ROOT
from vitbench.analysis import across_runtimes
from vitbench.analysis.order import medians_of
from vitbench.render import tables
from vitbench.results import journal as journals
from vitbench.results.journal import Run
from vitbench.results.outcome import Measured
from vitbench.results.record import build_record

# At most so many of 100 comparisons.
GOAL = 2
NAMES = ("msa", "hilo", "pooling")
RUNTIMES = ("eager", "onnxruntime", "openvino")
OPTIONS = ["--resolution", "224", "--batch-size", "8", "--effort", "quick", "--cap", "0.4"]
AGAIN = "-again"


def tree(folder: Path) -> Path:
    """A copy of the code in which each of RUNTIMES has a second name: a second file."""
    for name in ("vitbench", "attentions", "reports/published"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in RUNTIMES:
        file = folder / "vitbench" / "runtimes" / f"{name}.py"
        text = file.read_text(encoding="utf-8")
        again = text.replace(f'name="{name}"', f'name="{name}{AGAIN}"', 1)
        assert again != text
        file.with_stem(f"{name}_again").write_text(again, encoding="utf-8")
    return folder


def recorded(folder: Path, options: Options) -> tuple[Run, str]:
    """A run of the tree, and its command."""
    rounds, names = (4, NAMES[:1]) if options.quick else (8, NAMES)
    both = [f"{name}{end}" for name in RUNTIMES for end in ("", AGAIN)]
    words = ["run", "--attention", ",".join(names), "--runtime", ",".join(both), *OPTIONS]
    words += ["--device", "cpu", "--quiet", "--rounds", str(rounds)]
    command = [sys.executable, "-m", "vitbench", *words, "--out", str(folder / "run")]
    environment = os.environ | {"PYTHONPATH": str(tree(folder))}  # the workers' too
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return journals.read(folder / "run"), f"`vitbench {' '.join(words)}`"


def run(options: Options) -> Section:
    """Many rounds of a few mechanisms, of which runs of fewer rounds are drawn."""
    with tempfile.TemporaryDirectory() as folder:
        return section(*recorded(Path(folder), options))


def section(done: Run, what: str, draws: int = 100) -> Section:
    """How often two names of one runtime are called different, in runs of these rounds."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    lines, figures = [], {}
    for rounds in (2, 3, 5):
        if rounds > done.plan.rounds:
            continue
        found = [one for _ in range(draws) for one in compared(done, rounds, rng)]
        called, trusted, apart = (
            sum(one[key] for one in found) for key in ("called", "trusted", "apart")
        )
        rate = 100 * called / trusted if trusted else 0.0
        figures[f"called_{rounds}"] = rate
        lines.append((str(rounds), str(trusted), str(called), f"{rate:.1f}", str(apart)))
        rows += [one | {"rounds": rounds} for one in found]
    worst = max(figures.values(), default=0.0)
    header = ("rounds", "comparisons", "called faster", "of 100", "medians all apart")
    text = [
        f"{what}, where each runtime has a second name: {done.plan.rounds} rounds, of which "
        f"{draws} runs of fewer rounds are drawn at random. Only rows of trust A and B are "
        "compared. *medians all apart*: every round of one name is faster than every round of the "
        "other, which intervals over the rounds would call.",
        tables.markdown(header, lines),
        f"Goal: at most {GOAL} of 100: {verdict(worst <= GOAL)} ({worst:.1f}).",
    ]
    return Section("Identical runtimes under two names", text, rows, figures)


def compared(done: Run, rounds: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """The two names of each runtime, mechanism by mechanism, in a run of rounds drawn at random."""
    drawn = [int(index) for index in rng.choice(done.plan.rounds, rounds, replace=False)]
    records = []
    for case in done.plan.cases:
        first = done.outcomes[case.id, 0]  # which looked at the case
        outcomes = [done.outcomes[case.id, index] for index in drawn]
        if isinstance(first, Measured) and isinstance(outcomes[0], Measured):
            outcomes[0] = dataclasses.replace(outcomes[0], facts=first.facts)
        records.append(build_record(case, outcomes, done.ceilings, done.environment))
    for comparison in across_runtimes.comparisons(records):
        spread = across_runtimes.spread_of(comparison)
        for rows in comparison.subjects:
            for runtime in RUNTIMES:
                pair = rows[runtime], rows[runtime + AGAIN]
                is_trusted = all(map(across_runtimes.is_trusted, pair))
                gaps = (spread.gap(*pair), spread.gap(*pair[::-1])) if is_trusted else (0.0,)
                yield {
                    "runtime": runtime,
                    "attention": pair[0]["attention"],
                    "trusted": is_trusted,
                    "called": max(gaps) > 1,
                    "apart": is_trusted and _are_apart(*map(medians_of, pair)),
                }


def _are_apart(one: list[float], other: list[float]) -> bool:
    return max(one) < min(other) or max(other) < min(one)
