"""`vitbench ab`: two versions of the code, measured in turns and judged."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitbench.cli import axes, judge, parse, terminal
from vitbench.errors import BadInput

if TYPE_CHECKING:
    from types import FrameType

    from vitbench.analysis.gate import Result
    from vitbench.engine.ab import AbComparison

_TIME = "Precision"
# Warm-up does not wait for two blocks of calls to agree, which on a noisy machine takes longer than
# the turns that follow; their neighbours on the other side are what they are compared with.
_RULE = {"warmup_calls": 3, "warmup_agree": 1.0, "sample_s": 0.002}


def ab(
    base: Annotated[str, typer.Argument(help="A git revision, a folder, or a Python environment.")],
    head: Annotated[
        str | None, typer.Argument(help="The same; by default the working tree as it is.")
    ] = None,
    suite: Annotated[
        str, typer.Option(help="A suite's name or a TOML file.", rich_help_panel="Axes")
    ] = "quick",
    attention: axes.Attention = None,
    backbone: axes.Backbone = None,
    resolution: axes.Resolution = None,
    stride: axes.Stride = None,
    dim: axes.Dim = None,
    heads: axes.Heads = None,
    batch_size: axes.BatchSize = None,
    dtype: axes.Dtype = None,
    impl: axes.Impl = None,
    mode: axes.Mode = None,
    task: axes.Task = None,
    runtime: axes.Runtime = None,
    cold: axes.Cold = None,
    param: axes.Param = None,
    plugin: axes.Plugin = None,
    max_slowdown: judge.MaxSlowdown = None,
    policy: judge.PolicyFile = None,
    strict: judge.Strict = False,
    reading: Annotated[
        float,
        typer.Option(help="Sampling of each side in a block, seconds.", rich_help_panel=_TIME),
    ] = 0.5,
    max_blocks: Annotated[
        int, typer.Option(help="Most blocks of A B B A in fresh processes.", rich_help_panel=_TIME)
    ] = 40,
    budget: Annotated[
        str | None,
        typer.Option(help="No block begins after this: 3m.", rich_help_panel=_TIME),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; all usable by default.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one answer of a worker.")] = 300.0,
    seed: Annotated[int, typer.Option(help="Of the order of the cases.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The folder of the result; reports/DATE-ab-... by default.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print sides and cases; measure nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    github: judge.Github = False,
    junit: judge.Junit = None,
    json: judge.Json = None,
) -> int:
    """Measure two versions in turns, A B B A, and judge. Exit status 0, 3, 4, 5 as check has it."""
    chosen = axes.given(
        attention=attention,
        backbone=backbone,
        task=task,
        resolution=resolution,
        stride=stride,
        dim=dim,
        num_heads=heads,
        batch_size=batch_size,
        dtype=dtype,
        impl=impl,
        mode=mode,
        runtime=runtime,
        cold=cold,
    )
    rules_of_policy = judge.read_policy(policy, max_slowdown, strict)
    forms = judge.ReportPaths(junit, json, github)
    if not 0 < reading < 1e3:
        raise BadInput(f"--reading must be a positive time in seconds, got {reading:g}")
    from vitbench.engine import ab as interleaved
    from vitbench.engine import planning, revision
    from vitbench.results.folder import make_folder, new_folder

    limits = interleaved.Rules(max_blocks, None if budget is None else parse.duration(budget))
    limits = dataclasses.replace(limits, slice_s=reading / (2 * limits.abba_cycles))
    signal.signal(signal.SIGTERM, _interrupt)  # a cancelled job cleans up as after Ctrl-C
    with revision.checkout(base, head) as sides:
        plugins = tuple(plugin or ())
        if (reason := revision.same_code(*sides, bool(plugins))) is not None:
            raise BadInput(f"there is nothing to compare: {reason}")
        plan = planning.make_plan(
            suite,
            device=device,
            axes=chosen,
            params=parse.params(param or []),
            plugins=plugins,
            effort="quick",
            rule=_RULE | {"warmup_s": reading / 5},
            threads=threads,
            registry=sides[1].registry(),
            seed=seed,
            timeout_s=timeout,
        )
        words = ["vitbench ab", base, *([head] if head else [])]
        words += [f"--plugin {path}" for path in plugins]
        folder = out or new_folder(Path("reports"), "ab", plan.device)
        comparison = interleaved.AbComparison(
            plan, sides, rules_of_policy, limits, folder, command=" ".join(words)
        )
        if dry_run:
            _outlook(comparison)
            return 0
        make_folder(folder)
        return _carry_out(comparison, folder, forms, quiet=quiet)


def _outlook(comparison: AbComparison) -> None:
    from vitbench.engine import ab as interleaved
    from vitbench.render import tables

    console = terminal.console()
    console.print(comparison.title(), markup=False)
    rows = [
        [pair.head.describe(), pair.head.settings, pair.incomparable_reason]
        for pair in comparison.pairs
    ]
    console.print(tables.listing(("case", "settings", ""), rows))
    least = interleaved.blocks_needed(len(rows))
    console.print(f"\n{least} to {comparison.rules.max_blocks} blocks of A B B A, as noise decides")


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _carry_out(
    comparison: AbComparison,
    folder: Path,
    forms: judge.ReportPaths,
    *,
    quiet: bool,
) -> int:
    from vitbench.render.progress import ComparisonBar

    console = terminal.console()
    console.print(comparison.title(), markup=False)
    interrupted = False
    with ComparisonBar(console, quiet=quiet) as bar:
        comparison.on_progress = bar
        try:
            result = comparison.measure()
        except KeyboardInterrupt:
            interrupted = True
            result = comparison.finish()
    judge.show(result, console)
    judge.write(result, forms)
    _keep(comparison, result, folder)
    console.print(
        f"{comparison.blocks} blocks in {comparison.seconds:.0f} s; {folder}", markup=False
    )
    if interrupted:
        typer.echo("vitbench: interrupted; the verdicts are of what was measured", err=True)
        return 130
    return result.status


def _keep(comparison: AbComparison, result: Result, folder: Path) -> None:
    """result.json and the chart."""
    from vitbench.errors import StorageFull
    from vitbench.render import forest
    from vitbench.results.csv import write_json

    try:
        write_json(folder / "result.json", comparison.summary(result))
        forest.save(result, comparison.title(), folder)
    except OSError as error:
        raise StorageFull(f"{folder} cannot be written: {error.strerror}") from error
