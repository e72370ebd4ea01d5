"""`vitbench advise`: which of the measured cases to use, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from vitbench import devices
from vitbench.cases.backbone_names import TASKS
from vitbench.cli import judge, options, parse, terminal
from vitbench.errors import BadInput, nearest

if TYPE_CHECKING:
    from rich.console import Console

    from vitbench.analysis.advise import Advice, Samples
    from vitbench.cases.limits import Limits
    from vitbench.cases.plan import Plan
    from vitbench.results.record import Record

_REPORTS = Path("reports")
# Settings of which the answer is told too, where they were measured.
_ELSEWHERE = 4


class Question(options.Filters):
    """A group of options: what is asked for. Axes that are not named must not vary."""

    panel = "Question"
    defaults: ClassVar[Mapping[str, str | None]] = {"task": None} | dict(options.Filters.defaults)


@options.grouped
def advise(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders or CSV files of records; none: what has to be measured."),
    ] = None,
    *,
    device: Annotated[str | None, typer.Option(help=options.DEVICE)] = None,
    question: Question,
    bounds: options.Bounds,
    turns: Annotated[
        bool, typer.Option("--turns", help="Measure what lies within 20% in turns, as ab does.")
    ] = False,
    budget: Annotated[
        str | None, typer.Option(help="Longest time for --turns, such as 3m.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Without a run: measure what is missing.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of what is measured; by default reports/DATE-...")
    ] = None,
    json: options.AsJson = False,
) -> int:
    """Answer which mechanism, runtime or model to use: one pick, and why each rival lost."""
    limits = bounds.limits()
    task = _task(question)
    if device is not None:
        devices.check(device)
    if budget is not None and not turns:
        raise BadInput("--budget is for --turns: give both or none")
    if not runs:
        folder = _measured(question, task, device, limits, out, yes=yes)
        if folder is None:
            return 0
        runs, out = [folder], None
    elif yes:
        raise BadInput("--yes is for a question without a run: leave one of them out")
    from vitbench.analysis import advise as advising

    rows = _rows(runs, task, device)
    chosen = _select(rows, question)
    advising.ask(chosen)
    samples = _samples(runs) if limits.percentile is not None else None
    advice = advising.advise(chosen, limits, samples)
    if turns:
        advice = _in_turns(advice, budget, out)
    elsewhere = _elsewhere(rows, chosen, question, limits, samples)
    if json:
        terminal.echo_json(_summary(advice))
    else:
        _print(advice, elsewhere, chosen, terminal.console())
    return 0 if advice.pick is not None else 1


def _task(question: dict[str, Any]) -> str | None:
    """Takes the task out of the axes. Raises BadInput."""
    tasks = question.pop("task", ())
    if len(tasks) > 1:
        raise BadInput(f"--task takes one task, got {', '.join(tasks)}")
    for task in tasks:
        if task not in TASKS:
            raise BadInput(f"no task is called {task!r}; {nearest(task, TASKS)}")
    return tasks[0] if tasks else None


def _rows(runs: Sequence[Path], task: str | None, device: str | None) -> list[Record]:
    """The rows of the task and the device. Raises BadInput where there are none."""
    from vitbench.analysis.groups import head_of
    from vitbench.cases.backbone_names import task_of

    rows = [row for run in runs for row in judge.records(run)]
    if not rows:
        names = ", ".join(map(str, runs))
        raise BadInput(f"no rows in {names}: nothing was measured there, nothing can be advised")
    if device is not None and device != devices.AUTO:
        known = {str(row["device"]) for row in rows}
        if device not in known:
            raise BadInput(f"no row is of the device {device!r}; {nearest(device, known)}")
        rows = [row for row in rows if row["device"] == device]
    if task is not None:
        rows = [row for row in rows if row["backbone"] and task_of(head_of(row)) == task]
        if not rows:
            raise BadInput(f"no row is of a backbone that does the task {task}")
    return rows


def _select(rows: Sequence[Record], question: Question) -> list[Record]:
    """Raises BadInput, with what would measure it where a value can be measured."""
    from vitbench.cases.axes import AXES
    from vitbench.cases.row import select

    for name, values in question.items():
        AXES[name].check(values)
    chosen = select(rows, question)
    if not chosen:
        raise BadInput("no row answers the question: `vitbench table RUN` shows what there is")
    return chosen


def _samples(runs: Sequence[Path]) -> Samples:
    from vitbench.analysis.advise import Samples
    from vitbench.results import samples

    return Samples({case: own for run in runs for case, own in samples.read(run).items()})


def _elsewhere(
    rows: Sequence[Record],
    chosen: Sequence[Record],
    question: Question,
    limits: Limits,
    samples: Samples | None,
) -> list[tuple[str, Advice]]:
    """The advice at other sizes and batches, all else being equal."""
    from vitbench.analysis.advise import advise as advised
    from vitbench.cases.row import select
    from vitbench.render import labels

    found = []
    sizes = {labels.resolution(row): f"{labels.resolution(row)} px" for row in rows}
    batches = {str(row["batch_size"]): f"batch {row['batch_size']}" for row in rows}
    here = {labels.resolution(chosen[0]), str(chosen[0]["batch_size"])}
    for axis, words in (("resolution", sizes), ("batch_size", batches)):
        for value in [value for value in words if value not in here][:_ELSEWHERE]:
            other = {"batch_size": (chosen[0]["batch_size"],), **question, axis: (value,)}
            try:
                same = select(_alike(rows, chosen[0], axis), other)
            except BadInput:  # nothing was measured there
                continue
            if same:
                found.append((words[value], advised(same, limits, samples)))
    return found


def _alike(rows: Sequence[Record], one: Record, axis: str) -> list[Record]:
    """The rows that differ from a row in the size or the batch only, and in what is the answer."""
    from vitbench.analysis.compare import IDENTITY, MACHINE
    from vitbench.analysis.groups import SIZE, SUBJECT

    free = SIZE if axis == "resolution" else (axis,)
    shared = [n for n in (*IDENTITY, *MACHINE) if n not in (*free, *SUBJECT, "runtime")]
    return [row for row in rows if all(row[name] == one[name] for name in shared)]


def _print(
    advice: Advice,
    elsewhere: Sequence[tuple[str, Advice]],
    rows: Sequence[Record],
    console: Console,
) -> None:
    from vitbench.analysis.unmeasured import unmeasured
    from vitbench.render import advice as words

    paragraphs = [("", words.answer(advice))]
    if advice.pick is not None:
        paragraphs.append(("", words.commands(advice.pick)))
    paragraphs.append(("why not the others", words.rivals(advice)))
    paragraphs.append(("what would change the answer", words.changes(advice, elsewhere)))
    pick = advice.pick or (advice.nearest.record if advice.nearest else None)
    if pick is not None:
        paragraphs.append(("not measured", words.missing(unmeasured(rows, pick))))
    for title, lines in paragraphs:
        if lines and title:
            console.print(f"\n{title}:", style="bold")
        for line in lines:
            console.print(f"- {line}" if title else line, soft_wrap=True)


def _summary(advice: Advice) -> dict[str, Any]:
    """As JSON can hold it: rows by the ids of their cases."""
    from vitbench.render import advice as words

    def case(row: Record | None) -> Any:
        return None if row is None else row["case"]

    return {
        "pick": case(advice.pick),
        "runner_up": case(advice.runner_up),
        "level": [case(row) for row in advice.level],
        "lost": [
            {"case": case(one.record), "cause": one.cause, "times": one.times}
            for one in advice.lost
        ],
        "sentences": words.answer(advice),
    }


# Measuring


def _measured(
    question: Question,
    task: str | None,
    device: str | None,
    limits: Limits,
    out: Path | None,
    *,
    yes: bool,
) -> Path | None:
    """The folder of the smallest sweep that can answer; None where it is only told."""
    from vitbench.cli.run import outlook
    from vitbench.engine import planning
    from vitbench.results.folder import new_folder

    axes: dict[str, Any] = dict(question)
    is_of_models = task is not None or limits.top1 is not None or "backbone" in axes
    if is_of_models:
        axes.setdefault("backbone", _models(limits))
        axes["task"] = (task or "classify",)
    else:
        axes.setdefault("attention", _mechanisms())
    for name in ("resolution", "batch_size", "runtime"):
        if not (name == "resolution" and is_of_models):
            axes.setdefault(name, _only(name))
    plan: Plan = planning.make_plan(
        "quick", device=device or devices.AUTO, axes=axes, effort="quick", rounds=4
    )
    console = terminal.console()
    console.print(f"no run is given; the smallest sweep that can answer: {plan.title}")
    console.print(outlook(plan), soft_wrap=True)
    if not yes:
        console.print("measure it with --yes")
        return None
    from vitbench.engine import runner
    from vitbench.render.progress import ProgressBar

    folder = out or new_folder(_REPORTS, "advise", plan.device)
    with ProgressBar(console, quiet=False) as bar:
        try:
            runner.measure(plan, folder, bar)
        except KeyboardInterrupt:
            typer.echo(
                f"vitbench: interrupted; {folder} contains the results so far; continue with "
                f"`vitbench run --resume {folder}`, then `vitbench advise {folder}`",
                err=True,
            )
            raise typer.Exit(130) from None
    console.print(str(folder), style="cyan", soft_wrap=True)
    return folder


def _only(name: str) -> tuple[Any, ...]:
    from vitbench.cases.axes import AXES

    return AXES[name].defaults


def _mechanisms() -> tuple[str, ...]:
    import attentions

    return tuple(attentions.names())


def _models(limits: Limits) -> tuple[str, ...]:
    """The named models; with a least accuracy those of which as much is published."""
    from vitbench.analysis.accuracy import published_top1
    from vitbench.cases.backbone_names import NAMES
    from vitbench.cases.row import row_of
    from vitbench.cases.sweep import Sweep

    if limits.top1 is None:
        return NAMES
    found = []
    for case in Sweep(backbone=NAMES, elsewhere=True).expand():
        known = published_top1(row_of(case))
        if known is not None and known.percent >= limits.top1:
            found.append(case.backbone)
    if not found:
        raise BadInput(f"no named model has a published top-1 of {limits.top1:g}% or more")
    return tuple(found)


def _in_turns(advice: Advice, budget: str | None, out: Path | None) -> Advice:
    """The advice with what turns tell of the rows within 20%."""
    from vitbench.analysis.advise import settled
    from vitbench.cases.row import case_of, name_of
    from vitbench.engine import turns
    from vitbench.render.progress import ComparisonBar
    from vitbench.results.folder import make_folder, new_folder

    if advice.pick is None or not advice.near:
        return advice
    seconds = None if budget is None else parse.duration(budget)
    folder = make_folder(out or new_folder(_REPORTS, "turns", str(advice.pick["device"])))
    rivals = {case_of(row): row for row in advice.near}
    console = terminal.console()
    with ComparisonBar(console, quiet=False) as bar:
        try:
            verdicts = turns.measure(
                case_of(advice.pick),
                list(rivals),
                folder,
                budget_s=seconds,
                on_progress=bar,
            )
        except KeyboardInterrupt:
            typer.echo(
                f"vitbench: interrupted; {folder} contains the turns so far, which are too few for "
                "an answer; without --turns there is one from the rows",
                err=True,
            )
            raise typer.Exit(130) from None
    by_name = {verdict.describe: verdict for verdict in verdicts}
    console.print(str(folder), style="cyan", soft_wrap=True)
    ratios = {}
    for case, row in rivals.items():
        verdict = by_name[name_of(case)]
        times = None if verdict.ratio is None else verdict.ratio.value
        ratios[str(row["case"])] = (verdict.word, times)
    return settled(advice, ratios)
