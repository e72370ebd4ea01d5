"""`vitbench run`: parse, measure, print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from vitbench.cli import complete, options, parse, terminal
from vitbench.cli.options import option
from vitbench.errors import BadInput

if TYPE_CHECKING:
    from vitbench.cases.plan import Plan
    from vitbench.render.progress import ProgressBar
    from vitbench.results.journal import Run
    from vitbench.results.record import Record

REPORTS = Path("reports")
# Measures into a folder.
Work: TypeAlias = "Callable[[Path, ProgressBar], Run]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A group of options: fields of TimingRule that differ from the effort's."""

    panel = options.PRECISION

    warmup_calls: int | None = option(None, "Least number of warm-up calls.")
    warmup_s: float | None = option(None, "Least warm-up, seconds.", "--warmup")
    warmup_agree: str | None = option(
        None, "Warm-up ends when two blocks of calls agree within this share, such as 2%."
    )
    warmup_cap_s: float | None = option(None, "Longest warm-up, seconds.", "--warmup-cap")
    sample_s: float | None = option(None, "Shortest sample, seconds.", "--sample-time")
    min_samples: int | None = option(None, "Least number of samples in a round.")
    min_s: float | None = option(None, "Shortest sampling in a round, seconds.", "--min-time")
    target_noise: str | None = option(
        None,
        "Sampling ends at this half-width of the median's 95% interval, such as 1%.",
        "--noise",
    )
    cap_s: float | None = option(None, "Longest sampling in a round, seconds.", "--cap")
    energy_s: float | None = option(
        None,
        "Reading of the energy counters in round one, seconds; 0: none.",
        "--energy-time",
    )

    def overrides(self) -> dict[str, Any]:
        """Fields of TimingRule. Raises BadInput."""
        shares = {"--warmup-agree": "warmup_agree", "--noise": "target_noise"}
        texts = {option: getattr(self, field) for option, field in shares.items()}
        return asdict(self) | {
            shares[option]: parse.share(option, text)
            for option, text in texts.items()
            if text is not None
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A group of options: how much work goes into each case."""

    panel = options.PRECISION

    effort: str | None = option(None, "quick, default or thorough.")
    budget: str | None = option(
        None, "Time for the whole run, such as 10m or 90s; rounds and samples follow from it."
    )
    rounds: int | None = option(None, "Rounds; each is a fresh worker process.")
    untimed: bool = option(False, "Only check, count and measure memory.", "--untimed")

    def check(self, rule: Rule) -> None:
        """Raises BadInput for options that exclude each other."""
        if self.budget is not None and rule.cap_s is not None:
            raise BadInput(
                "--budget decides how long a case is sampled: give it or --cap, not both"
            )
        if self.budget is not None and self.untimed:
            raise BadInput("--budget is for timing, and --untimed times nothing: give one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """A group of options: the worker's memory."""

    panel = options.MACHINE

    memory_limit: str | None = option(
        None, "Memory of a worker on a CPU: 8GiB or none; by default 90% of what is free."
    )
    allocator: str = option("steady", "steady keeps freed memory; system is the C library's.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """A group of options: several machines."""

    panel = "Several machines"

    shard: str | None = option(
        None, "Only this part of the cases, such as 3/16; `vitbench merge` joins the parts."
    )
    fleet: str | None = option(
        None, "A Ray cluster: ray://HOST:10001, HOST:6379, auto, or local for one on this machine."
    )
    spread: str = option(
        "share", "share: the fleet's nodes share the cases; each: one run for each kind of node."
    )

    def check(self, precision: Precision, memory: Memory) -> None:
        """Raises BadInput for options that exclude each other."""
        if self.spread not in ("share", "each"):
            raise BadInput(f"--spread is share or each, got {self.spread!r}")
        if self.spread != "share" and self.fleet is None:
            raise BadInput(f"--spread {self.spread} is for the nodes of a fleet: give --fleet too")
        if self.shard is not None and self.fleet is not None:
            raise BadInput("--shard is for machines without Ray: give it or --fleet, not both")
        several = (self.shard and "--shard") or (self.fleet and "--fleet")
        if several and precision.budget is not None:
            raise BadInput(f"--budget is for one machine and a whole plan: give it or {several}")
        if self.shard is not None:
            from vitbench.cases import shard

            shard.parse(self.shard)
        if self.fleet is not None:
            from vitbench.fleet import cluster

            cluster.check_address(self.fleet)
            if memory.memory_limit == "none":
                raise BadInput("--memory-limit none does not go with --fleet: give an amount")

    def part(self, plan: Plan) -> Plan:
        """What of the plan this machine measures. Raises BadInput."""
        from vitbench.cases import plan as plans
        from vitbench.cases import shard

        if self.shard is None:
            return plan
        number, count = shard.parse(self.shard)
        return shard.part_of(plans.with_control(plan), number, count, partial(plans.cost_s, plan))


@options.grouped
def run(
    context: typer.Context,
    suite: Annotated[
        str, typer.Argument(help=options.SUITE, autocompletion=complete.suites)
    ] = "quick",
    *,
    axes: options.Axes,
    selection: options.Selection,
    precision: Precision,
    rule: Rule,
    machine: options.Machine,
    memory: Memory,
    machines: Machines,
    weights: Annotated[
        Path | None, typer.Option(help="A checkpoint for every backbone; only tensors are read.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder, as it was planned.")
    ] = None,
) -> int:
    """Measure a sweep; write its CSV files and charts."""
    if resume is not None:
        check_resume(context)
        if machines.fleet is not None:
            from vitbench.cli import fleet

            return fleet.resume(machines.fleet, resume, quiet=machine.quiet)
        from vitbench.engine import runner

        return carry_out(runner.resume, resume, conclude, quiet=machine.quiet)
    precision.check(rule)
    machines.check(precision, memory)
    settings: dict[str, Any] = {"allocator": memory.allocator}
    if machines.fleet is not None:
        settings["memory_limit_bytes"] = None  # each node has its own default
    if memory.memory_limit is not None:
        settings["memory_limit_bytes"] = parse.amount_of_memory(memory.memory_limit)
    if precision.budget is not None:
        settings["budget_s"] = parse.duration(precision.budget)
    from vitbench.engine.planning import make_plan

    planned = partial(
        make_plan,
        suite,
        axes=axes,
        **selection.settings(),
        effort=precision.effort,
        rounds=precision.rounds,
        rule=rule.overrides(),
        timed=not precision.untimed,
        weights=weights,
        on_note=partial(typer.echo, err=True),
        **machine.settings(),
        **settings,
    )
    if machines.fleet is not None:
        from vitbench.cli import fleet

        return fleet.run(machines.fleet, machines.spread, planned, machine)
    plan = machines.part(planned())
    if machine.dry_run:
        print_plan(plan)
        return 0
    from vitbench.engine import runner
    from vitbench.results.folder import new_folder

    terminal.console().print(f"{plan.title}: {outlook(plan)}")
    folder = machine.out or new_folder(REPORTS, plan.suite, plan.device)
    work = partial(runner.measure, plan)
    return carry_out(work, folder, conclude, quiet=machine.quiet)


def check_resume(context: typer.Context, *others: str) -> None:
    """Raises BadInput for what a resumed run would ignore.

    others  parameters that go with --resume, beside those that every command has
    """
    ignored = []
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        is_given = source is not None and source.name == "COMMANDLINE"
        if is_given and parameter.name not in ("resume", "quiet", "fleet", *others):
            ignored.append(parameter.opts[0])
    if ignored:
        names = ", ".join(ignored)
        raise BadInput(f"--resume does not go with {names}: a resumed run keeps its own plan")


def print_plan(plan: Plan) -> None:
    """The cases, which of them cannot be measured, and how long the others take."""
    from vitbench.cases.row import name_of
    from vitbench.engine.inquiry import reasons_against
    from vitbench.render import tables

    reasons = reasons_against(plan.cases, plan.plugins)
    console = terminal.console()
    rows = [[name_of(case), reasons.get(case, "")] for case in plan.cases]
    console.print(tables.listing(("case", "cannot be measured, because" if reasons else ""), rows))
    console.print(f"\n{outlook(plan)}")
    if reasons:
        console.print(f"{len(reasons)} of {len(rows)} cases cannot be measured")


def outlook(plan: Plan) -> str:
    """How much there is to do, the time or the precision to expect, and what of it converts."""
    from vitbench.cases import plan as plans
    from vitbench.engine import budget
    from vitbench.render import units

    least, most = plans.estimate_s(plan)
    cases = f"{len(plan.cases)} {'case' if len(plan.cases) == 1 else 'cases'}"
    if plan.tuning is not None and plan.tuning.drawn:
        size = plan.tuning.space.size
        cases += f" and {plan.tuning.drawn} of {size} settings, which are drawn as it goes,"
    converts = _conversions(plan)
    if not plan.timed:
        return f"{cases} on {plan.device}, untimed: about {units.duration(least)}{converts}"
    rounds = f"{plan.rounds} {'round' if plan.rounds == 1 else 'rounds'}"
    scope = f"{cases} on {plan.device}, {rounds}: "
    if plan.budget_s is None:
        times = units.duration(least), units.duration(most)
        if len({*times}) == 1:
            return f"{scope}about {times[0]}{converts}"
        return f"{scope}{times[0]} to {times[1]}, depending on the noise{converts}"
    samples = budget.samples_each(plan)
    return scope + (
        f"at most {units.duration(plan.budget_s)}, about {samples} samples per case; if samples "
        f"scatter by 10%, the median is known to {budget.half_width(0.1, samples):.1%}, plus the "
        f"differences between processes{converts}"
    )


def _conversions(plan: Plan) -> str:
    """What of the time converts modules; "" where nothing is converted."""
    from vitbench.cases import plan as plans
    from vitbench.render import units

    seconds = plans.conversions_s(plan.cases, plan.calibration)
    if not seconds:
        return ""
    on = f", calibrated on {plan.calibration.source}" if plan.calibration else ""
    return f"; about {units.duration(seconds)} of it converts modules{on}"


def carry_out(
    work: Work,
    folder: Path,
    answer: Callable[[Run, Path], int],
    *,
    quiet: bool,
    command: str = "vitbench run",
    stderr: bool = False,
) -> int:
    """Measures or resumes, and answers. Ctrl-C leaves what there is, and says with which command it
    is continued.

    stderr  failures are told there, and not among the output
    """
    from vitbench.render.progress import ProgressBar

    with ProgressBar(terminal.console(stderr=stderr), quiet=quiet) as bar:
        try:
            done = work(folder, bar)
        except KeyboardInterrupt:
            return interrupted(folder, f"{command} --resume {folder}")
    return answer(done, folder)


def interrupted(folder: Path, command: str) -> int:
    """Says what there is, and the command that continues."""
    typer.echo(
        f"vitbench: interrupted; {folder} contains the results so far; continue with `{command}`",
        err=True,
    )
    return 130


def conclude(done: Run, folder: Path) -> int:
    """The final table, what went wrong, and the paths."""
    from collections import Counter

    from vitbench.analysis import published, trust
    from vitbench.render import findings, recommendation, tables
    from vitbench.results.folder import RECORDS, SAMPLES
    from vitbench.results.outcome import COUNTED, MEASURED, UNSUPPORTED

    console = terminal.console()
    records = done.records()
    console.print(tables.results(records[: tables.MOST_ROWS]))
    if len(records) > tables.MOST_ROWS:
        console.print(
            f"{tables.MOST_ROWS} of {len(records)} rows are shown: `vitbench table {folder} "
            "--rows 0` shows all",
            soft_wrap=True,
        )
    for note in tables.notes(records):
        console.print(note, markup=False, soft_wrap=True)
    figures = published.write(done, folder)
    if figures:
        from vitbench.render.published import table

        reference = done.plan.reference or str(figures[0].key)
        beside, notes = table(records, figures, reference)
        console.print("\nbeside the published figures:", beside, notes, sep="\n")
    advice = recommendation.table(records)
    if advice is not None:
        console.print("\nwhich implementation to use:", advice, sep="\n")
    across = findings.lines(records)
    for line in ["", *across] if across else []:
        console.print(line, markup=False, soft_wrap=True)
    statuses = Counter(str(record["status"]) for record in records)
    grades = Counter(str(record["trust"]) for record in records if record["trust"])
    failed = len(records) - statuses[MEASURED] - statuses[COUNTED] - statuses[UNSUPPORTED]
    console.print(
        f"\n{statuses[MEASURED]} of {len(records)} cases measured on "
        f"{done.environment['device_name']}"
        + "".join(f", {n} {kind}" for kind, n in statuses.items() if kind != MEASURED)
        + (f"; trust {trust.summary(grades)}" if grades else "")
    )
    _print_precision(done, records)
    if done.plan.tuning is not None:
        console.print(f"\nthe best settings: `vitbench tune --resume {folder}`", soft_wrap=True)
    for path in (folder / RECORDS, folder / SAMPLES):
        console.print(str(path), style="cyan", soft_wrap=True)
    from vitbench.render import charts, report  # last: where there are none, there are figures

    paths = charts.draw(folder)
    try:
        paths += report.write([folder])
    except BadInput as error:  # a file of the user's is in the way: nothing is lost by that
        typer.echo(f"vitbench: no report: {error}", err=True)
    for path in paths:
        console.print(str(path), style="cyan", soft_wrap=True)
    return 1 if failed else 0


def _print_precision(done: Run, records: Sequence[Record]) -> None:
    """How far a budget of time went."""
    from vitbench.render import units

    console = terminal.console()
    noises = sorted(
        (float(str(r["noise"])), str(r["attention"] or r["backbone"]))
        for r in records
        if r["noise"] is not None
    )
    if done.plan.budget_s is not None and noises:
        median, (worst, subject) = noises[len(noises) // 2][0], noises[-1]
        console.print(
            f"precision within the budget of {units.duration(done.plan.budget_s)}: medians are "
            f"known to {median:.1%}, at worst {worst:.1%} ({subject})"
        )
