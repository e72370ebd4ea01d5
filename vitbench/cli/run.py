"""`vitbench run`: parse, measure, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitbench.cli import axes, parse, terminal
from vitbench.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from vitbench.cases.plan import Plan
    from vitbench.results.journal import Run

REPORTS = Path("reports")

_TIME = "Precision"
_WHERE = "Machine and output"


def run(
    suite: axes.Suite = "quick",
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
    weights: Annotated[
        Path | None,
        typer.Option(help="A checkpoint for every backbone, read as tensors only."),
    ] = None,
    effort: Annotated[
        str | None, typer.Option(help="quick, default, thorough.", rich_help_panel=_TIME)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Time for the whole run, 10m or 90s; rounds and samples follow.",
            rich_help_panel=_TIME,
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Fresh worker processes.", rich_help_panel=_TIME)
    ] = None,
    warmup_calls: Annotated[
        int | None, typer.Option(help="Least calls of warm-up.", rich_help_panel=_TIME)
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Least warm-up, seconds.", rich_help_panel=_TIME)
    ] = None,
    warmup_agree: Annotated[
        float | None,
        typer.Option(help="Two warm-up blocks agree within this share.", rich_help_panel=_TIME),
    ] = None,
    warmup_cap: Annotated[
        float | None, typer.Option(help="Most warm-up, seconds.", rich_help_panel=_TIME)
    ] = None,
    sample_time: Annotated[
        float | None, typer.Option(help="Least time of a sample, seconds.", rich_help_panel=_TIME)
    ] = None,
    min_samples: Annotated[
        int | None, typer.Option(help="Least samples a round.", rich_help_panel=_TIME)
    ] = None,
    min_time: Annotated[
        float | None, typer.Option(help="Least sampling a round, seconds.", rich_help_panel=_TIME)
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Target: half-width of the 95% interval.", rich_help_panel=_TIME),
    ] = None,
    cap: Annotated[
        float | None, typer.Option(help="Most sampling a round, seconds.", rich_help_panel=_TIME)
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1.", rich_help_panel=_WHERE)
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; all usable by default.", rich_help_panel=_WHERE)
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds for a case in a round.", rich_help_panel=_WHERE)
    ] = 300.0,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            help="Of the worker on a CPU: 8GiB, none; 90% of what is free by default.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    allocator: Annotated[
        str,
        typer.Option(
            help="steady: freed memory stays; system: as the C library has it.",
            rich_help_panel=_WHERE,
        ),
    ] = "steady",
    seed: Annotated[
        int, typer.Option(help="Of the order of the cases.", rich_help_panel=_WHERE)
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; reports/DATE-... by default.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder; takes no other option.")
    ] = None,
    untimed: Annotated[
        bool,
        typer.Option("--untimed", help="Check, count and measure memory only: no time is taken."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its time; measure nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> int:
    """Measure a sweep and write its CSV files and charts."""
    if resume is not None:
        return _resume(resume, quiet=quiet)
    chosen = axes.given(
        attention=attention,
        backbone=backbone,
        resolution=resolution,
        stride=stride,
        dim=dim,
        num_heads=heads,
        batch_size=batch_size,
        dtype=dtype,
        impl=impl,
        mode=mode,
        task=task,
        runtime=runtime,
        cold=cold,
    )
    rule = {
        "warmup_calls": warmup_calls,
        "warmup_s": warmup,
        "warmup_agree": warmup_agree,
        "warmup_cap_s": warmup_cap,
        "sample_s": sample_time,
        "min_samples": min_samples,
        "min_s": min_time,
        "target_noise": noise,
        "cap_s": cap,
    }
    if budget is not None and cap is not None:
        raise BadInput("--budget decides how long a case is sampled: give it or --cap, not both")
    if budget is not None and untimed:
        raise BadInput("--budget is for time, and --untimed takes none: give one of them")
    settings: dict[str, Any] = {"seed": seed, "timeout_s": timeout, "allocator": allocator}
    if memory_limit is not None:
        settings["memory_limit_bytes"] = parse.amount_of_memory(memory_limit)
    if budget is not None:
        settings["budget_s"] = parse.duration(budget)
    from vitbench.engine.planning import make_plan

    plan = make_plan(
        suite,
        device=device,
        axes=chosen,
        params=parse.params(param or []),
        plugins=tuple(plugin or ()),
        effort=effort,
        rounds=rounds,
        rule=rule,
        threads=threads,
        timed=not untimed,
        weights=weights,
        **settings,
    )
    if dry_run:
        _print_plan(plan)
        return 0
    return _measure(plan, out, quiet=quiet)


def _print_plan(plan: Plan) -> None:
    from vitbench.render import tables

    console = terminal.console()
    rows = [
        [case.subject, str(case.resolution), case.describe(), case.settings] for case in plan.cases
    ]
    console.print(tables.listing(("subject", "px", "case", "settings"), rows))
    console.print(f"\n{_outlook(plan)}")


def _outlook(plan: Plan) -> str:
    """How much there is to do, and the time or the precision to expect."""
    from vitbench.cases import plan as plans
    from vitbench.engine import budget
    from vitbench.render import units

    least, most = plans.estimate_s(plan)
    cases = f"{len(plan.cases)} {'case' if len(plan.cases) == 1 else 'cases'}"
    if not plan.timed:
        return f"{cases} on {plan.device}, untimed: about {units.duration(least)}"
    rounds = f"{plan.rounds} {'round' if plan.rounds == 1 else 'rounds'}"
    told = f"{cases} on {plan.device}, {rounds}: "
    if plan.budget_s is None:
        return told + f"{units.duration(least)} to {units.duration(most)}, as noise decides"
    samples = budget.samples_each(plan)
    return told + (
        f"{units.duration(plan.budget_s)} at most, which buys some {samples} samples a case; where "
        f"samples scatter by 10%, that is a median known to {budget.half_width(0.1, samples):.1%}, "
        "and what processes differ by comes on top"
    )


def _measure(plan: Plan, out: Path | None, *, quiet: bool) -> int:
    from vitbench.engine import runner
    from vitbench.render.progress import ProgressBar
    from vitbench.results.folder import new_folder

    console = terminal.console()
    folder = out or new_folder(REPORTS, plan.suite, plan.device)
    console.print(f"{plan.title}: {_outlook(plan)}")
    with ProgressBar(console, quiet=quiet) as bar:
        try:
            done = runner.measure(plan, folder, bar)
        except KeyboardInterrupt:
            return _interrupted(folder)
    return _report(done, folder, console)


def _resume(folder: Path, *, quiet: bool) -> int:
    from vitbench.engine import runner
    from vitbench.render.progress import ProgressBar

    console = terminal.console()
    with ProgressBar(console, quiet=quiet) as bar:
        try:
            done = runner.resume(folder, bar)
        except KeyboardInterrupt:
            return _interrupted(folder)
    return _report(done, folder, console)


def _interrupted(folder: Path) -> int:
    typer.echo(
        f"vitbench: interrupted; {folder} holds what there is; continue with "
        f"`vitbench run --resume {folder}`",
        err=True,
    )
    return 130


def _report(done: Run, folder: Path, console: Console) -> int:
    """The final table, what went wrong, and the paths."""
    from collections import Counter

    from vitbench.analysis import published, trust
    from vitbench.render import charts, recommendation, tables, units
    from vitbench.results.folder import RECORDS, SAMPLES
    from vitbench.results.outcome import COUNTED, MEASURED

    records = done.records()
    console.print(tables.results(records))
    figures = published.write(done, folder)
    if figures:
        from vitbench.render.published import table

        reference = done.plan.reference or str(figures[0].key)
        beside, notes = table(records, figures, reference)
        console.print("\nbeside the published figures:", beside, notes, sep="\n", markup=False)
    advice = recommendation.table(records)
    if advice is not None:
        console.print("\nwhich implementation to use:", advice, sep="\n")
    plots = charts.draw(folder)
    statuses = Counter(str(record["status"]) for record in records)
    grades = Counter(str(record["trust"]) for record in records if record["trust"])
    failed = len(records) - statuses[MEASURED] - statuses[COUNTED] - statuses["unsupported"]
    console.print(
        f"\n{statuses[MEASURED]} of {len(records)} cases measured on "
        f"{done.environment['device_name']}"
        + "".join(f", {n} {kind}" for kind, n in statuses.items() if kind != MEASURED)
        + (f"; trust {trust.summary(grades)}" if grades else "")
    )
    noises = sorted(
        (float(str(r["noise"])), str(r["attention"] or r["backbone"]))
        for r in records
        if r["noise"] is not None
    )
    if done.plan.budget_s is not None and noises:
        median, (worst, subject) = noises[len(noises) // 2][0], noises[-1]
        console.print(
            f"the budget of {units.duration(done.plan.budget_s)} bought medians known to "
            f"{median:.1%}, at worst {worst:.1%} ({subject})"
        )
    for path in (folder / RECORDS, folder / SAMPLES, *plots):
        console.print(str(path), style="cyan")
    return 1 if failed else 0
