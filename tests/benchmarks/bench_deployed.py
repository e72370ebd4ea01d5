"""The suite `runtimes`: what each mechanism gains as it is deployed, and what the run costs."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks import Options, Section, measured, verdict
from tests.benchmarks.bench_overhead import GOAL, parts, share_not_measuring, spent
from vitbench import runtimes
from vitbench.analysis import across_runtimes
from vitbench.cases import plan as plans
from vitbench.render import findings, gains, tables
from vitbench.results import journal as journals
from vitbench.results.journal import CONVERSION, Run
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record

# The geometric mean over all mechanisms, in their fastest runtime, over eager float32.
GOALS: Mapping[str, float] = {"float32": 1.35, "int8": 2.0}
BACKBONE, BACKBONE_GOAL = "litv2_s", 1.4
MEASURED_GOAL = 0.95
ESTIMATE_GOAL = 1.5
LAYERS = ["--resolution", "224", "--batch-size", "8"]
MODELS = ["--backbone", BACKBONE, "--batch-size", "4"]


def run(options: Options) -> Section:
    """Every mechanism, then LITv2-S, in every runtime that is here."""
    with tempfile.TemporaryDirectory() as name:
        chosen = ["--attention", ",".join(options.attentions), *LAYERS]
        effort = ["--effort", "quick" if options.quick else "default"]
        text, rows, figures = _layers(Path(name) / "layers", [*chosen, *effort])
        if not options.quick:
            more, own, speedup = _model(Path(name) / "model", [*MODELS, *effort])
            text, rows, figures = [*text, *more], [*rows, *own], figures | speedup
    return Section("Mechanisms as they are deployed", text, rows, figures)


def _layers(
    folder: Path, options: Sequence[str]
) -> tuple[list[str], list[Record], dict[str, float]]:
    arguments = ["run", "runtimes", *options, "--device", "cpu", "--quiet"]
    wall_s = measured(*arguments, "--out", str(folder))
    done = journals.read(folder)
    records = done.records()
    text, figures = of_records(records)
    more, costs = of_costs(done, spent(folder), wall_s)
    title = f"`vitbench {' '.join(arguments)}`, {wall_s:.0f} s:"
    return [title, *text, *more], records, figures | costs


def of_records(records: Sequence[Record]) -> tuple[list[str], dict[str, float]]:
    """The gains with their goals, and which cases were not measured, and why."""
    text: list[str] = []
    figures: dict[str, float] = {}
    for table in gains.tables(records):
        text += [f"At {table.title}:", tables.markdown(table.header, table.rows)]
        for dtype, goal in GOALS.items():
            if (mean := table.means.get(dtype)) is not None:
                figures[f"mean_{dtype}"] = mean
                text.append(
                    f"Goal: the fastest runtime in {dtype} is {goal:g} times as fast as eager "
                    f"float32, in the geometric mean: {verdict(mean >= goal)} ({mean:.2f})."
                )
    text.append(
        "*times*: over eager float32. *of the limit*: the time that the MACs take at the measured "
        "ceiling, over the latency. *beside the MACs*: operators that count none, the most "
        "frequent first; with the moving of tensors they fill the rest."
    )
    asked = [row for row in records if row["runtime"] != runtimes.DEFAULT]
    lost = [row for row in asked if row["status"] != MEASURED]
    share = 1 - len(lost) / len(asked)
    text.append(
        f"Goal: at least {MEASURED_GOAL:.0%} of the cases in other runtimes are measured: "
        f"{verdict(share >= MEASURED_GOAL)} ({len(asked) - len(lost)} of {len(asked)})."
    )
    text += [f"- {row['attention']} in {row['runtime']}: {row['message']}" for row in lost]
    text += [f"- {line}" for line in findings.lines(records)]
    return text, figures | {"measured": share}


def of_costs(done: Run, passes: Any, wall_s: float) -> tuple[list[str], dict[str, float]]:
    """What the run spent on other things than measuring and converting, and its estimate."""
    working_s = passes["timing"] + passes["energy"] + passes[CONVERSION]
    share = share_not_measuring(wall_s, working_s)
    least_s, most_s = plans.estimate_s(done.plan)
    off = max(least_s / wall_s, wall_s / most_s, 1.0)
    return [
        "Where the time went:",
        parts(wall_s, passes),
        f"Goal: at most {GOAL:.0%} neither measuring nor converting: {verdict(share <= GOAL)} "
        f"({share:.1%}).",
        f"The estimate before the run was {least_s:.0f} to {most_s:.0f} s. Goal: the time lies "
        f"within a factor of {ESTIMATE_GOAL:g} of it: {verdict(off <= ESTIMATE_GOAL)} ({off:.2f}).",
    ], {"share": share, "estimate_off": off}


def _model(
    folder: Path, options: Sequence[str]
) -> tuple[list[str], list[Record], dict[str, float]]:
    arguments = ["run", "backbones-runtimes", *options, "--device", "cpu", "--quiet"]
    wall_s = measured(*arguments, "--out", str(folder))
    records = journals.read(folder).records()
    text = [f"`vitbench {' '.join(arguments)}`, {wall_s:.0f} s:"]
    found = [gain for own in across_runtimes.gains(records) for gain in own]
    for table in gains.tables(records):
        text.append(tables.markdown(table.header, table.rows))
    speedup = found[0].speedup(across_runtimes.BASE_DTYPE) if found else 0.0
    text.append(
        f"Goal: {BACKBONE} in its fastest runtime is {BACKBONE_GOAL:g} times as fast as eager: "
        f"{verdict(speedup >= BACKBONE_GOAL)} ({speedup:.2f})."
    )
    return text, records, {BACKBONE: speedup}
