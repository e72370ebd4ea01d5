"""The gate judged: false alarms on identical code, and planted slowdowns, beside other tools."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks import Options, Section
from tests.benchmarks.gate_record import (
    AXES,
    LIMIT,
    SLOWED,
    Block,
    Command,
    command,
    comparisons,
    read_blocks,
    slowed,
    tree,
)
from tests.benchmarks.gate_rivals import TOOLS
from vitbench.analysis import stats
from vitbench.analysis.compare import FLOORS
from vitbench.engine import ab, pool
from vitbench.render import tables

# The trees: how many times the base's time the slowed mechanism takes.
HEADS = {"same": 1.0, "five": 1.05, "ten": 1.10}
KINDS = {"same": "identical code", "five": "5% slower", "ten": "10% slower"}
# A suite comparison may take so long before it is undecided.
MOST_S = 300.0
# Comparisons of blocks that are drawn from the record at random.
DRAWN = 100
# The order of the real runs of the command.
RUNS = ("same", "five", "ten", "same", "five")


def run(options: Options) -> Section:
    """A record of identical code, then the command and the other tools on slower trees too."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = tree(folder / "base")
        trees = {head: tree(folder / head, factor) for head, factor in HEADS.items()}

        def record() -> list[Block]:
            limits = ["--max-slowdown=0%", "--max-blocks=1000", f"--budget={options.minutes:g}m"]
            command(base, trees["same"], folder / "record", *limits)
            return read_blocks(folder / "record" / ab.READINGS)

        def real(number: int, head: str) -> dict[str, Any]:
            out, limit = folder / f"{number}-{head}", f"--max-slowdown={LIMIT:.0%}"
            return dataclasses.asdict(command(base, trees[head], out, limit))

        stage = partial(stored, options.keep)
        blocks = stage("record", record)
        commands, rivals = [], {}
        if not options.quick:
            threads = int((pool.probe("cpu").environment or {})["torch"]["threads"])
            for number, head in enumerate(RUNS):
                commands.append(Command(**stage(f"{head}-{number}", partial(real, number, head))))
            for key, tool in TOOLS.items():
                judge = partial(tool.judge, base, trees["same"], trees["five"], threads)
                rivals[key] = stage(key, judge)
    return section(blocks, options.minutes, commands, rivals, str(folder))


def stored(folder: Path | None, name: str, make: Callable[[], Any]) -> Any:
    """What a stage returns, as JSON has it; from the folder, if one is named and it is there."""
    if folder is None:
        return make()
    path = folder / f"{name}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(make()), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def section(
    blocks: Sequence[Block],
    minutes: float,
    commands: Sequence[Command],
    rivals: Mapping[str, Mapping[str, int]],
    folder: str,
) -> Section:
    """The rates, the curve against time, the command itself, and the other tools."""
    block_s = 60 * minutes / len(blocks)
    max_blocks = max(8, int(MOST_S / block_s))
    whole = stats.ratio_of_blocks(_shifts(blocks, 1.0))
    figures = {"blocks": float(len(blocks)), "block_s": block_s, "ratio_same": whole.value}
    rows: list[dict[str, Any]] = []
    rates = []
    for head, factor in HEADS.items():
        found = comparisons(blocks, factor, max_blocks, DRAWN)
        if not found:
            continue  # a quick record is too short
        slower = {SLOWED} if factor > 1 else set()
        counts = {
            "n": len(found),
            "called": sum(bool(one.called & slower if slower else one.called) for one in found),
            "false": sum(bool(one.called - slower) for one in found),
            "undecided": sum("undecided" in one.words.values() for one in found),
            "s": stats.median([one.blocks * block_s for one in found]),
        }
        figures |= {f"{head}_drawn_{key}": float(value) for key, value in counts.items()}
        rates.append((KINDS[head], *(f"{value:.0f}" for value in counts.values())))
        rows += [
            {"head": head, "blocks": one.blocks, "status": one.status}
            | {f"verdict_{name}": word for name, word in one.words.items()}
            for one in found
        ]
    curve = [
        (f"{k * block_s:.0f}", *(_called(_shifts(blocks, f), k) for f in HEADS.values()))
        for k in (6, 7, 8, 10, 12, 16, 20, 30)
        if 2 * k < len(blocks)
    ]
    text = [
        f"`vitbench ab BASE SAME {' '.join(AXES)}` on two copies of the code, with a limit of 0%, "
        f"so that it goes on: {len(blocks)} blocks in {minutes:.0f} min; over all of them {SLOWED} "
        f"on one side takes {whole.value:.3f} times as long as on the other. {DRAWN} comparisons "
        "of each kind are replayed by the gate's own code on blocks drawn from it at random. "
        f"A slowdown is planted by multiplying {SLOWED}'s samples on one side. The limit is "
        f"{LIMIT:.0%}; a comparison ends when all five mechanisms are settled, or after "
        f"{max_blocks} blocks ({MOST_S:.0f} s); flagged mechanisms are measured again.",
        tables.markdown(
            ("head", "comparisons", "called", "falsely", "undecided", "median time, s"), rates
        ),
        f"`called`: {SLOWED} is called slower (any mechanism, on identical code). `falsely`: "
        "another one, or any on identical code. `undecided`: at least one mechanism.",
        "The share of windows of consecutive blocks after which the slowed mechanism is called, "
        "without measuring it again:",
        tables.markdown(("time, s", *KINDS.values()), curve),
    ]
    if commands:
        text += _real_runs(commands, folder)
        for head in dict.fromkeys(RUNS):
            own = [one for one in commands if one.head == head]
            figures |= {
                f"command_{head}_n": float(len(own)),
                f"command_{head}_3": float(sum(one.status == 3 for one in own)),
                f"command_{head}_s": stats.median([one.seconds for one in own]),
            }
    if rivals:
        text += _rivals(rivals)
        for name, tally in rivals.items():
            figures |= {f"{name}_{key}": float(value) for key, value in tally.items()}
    return Section("The gate", text, rows, figures)


def _shifts(blocks: Sequence[Block], factor: float) -> list[float]:
    """log(head / base) of the slowed mechanism, block by block."""
    return [ab.shift_of(slowed(block, factor)[SLOWED]) for block in blocks]


def _called(values: Sequence[float], count: int) -> str:
    """The share of windows of so many blocks whose interval lies beyond the limit."""
    windows = [values[k : k + count] for k in range(len(values) - count + 1)]
    ratios = [stats.ratio_of_blocks(window) for window in windows]
    hits = sum(one.low > 1 + max(LIMIT, FLOORS * one.floor) for one in ratios)
    return f"{hits / len(windows):.0%}"


def _real_runs(commands: Sequence[Command], folder: str) -> list[str]:
    shown = next((one for one in commands if one.head == "five"), commands[0])
    lines = [
        (KINDS[one.head], str(one.status), str(one.blocks), f"{one.seconds:.0f}")
        for one in commands
    ]
    return [
        f"The command itself, on trees in which each call of {SLOWED} waits for that share of its "
        "own time:",
        tables.markdown(("head", "exit status", "blocks", "time, s"), lines),
        f"```\n{shown.output.replace(folder, 'trees')}\n```",
    ]


def _rivals(rivals: Mapping[str, Mapping[str, int]]) -> list[str]:
    header = ("tool", "comparisons of each kind", "alarms on identical code", "slowdown found")
    lines = [(TOOLS[name].name, *map(str, counts.values())) for name, counts in rivals.items()]
    words = "Other tools on the same layers and trees as the command, base against 5% slower:"
    return [words, tables.markdown(header, lines)]
