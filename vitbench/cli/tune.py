"""`vitbench tune`: the best setting of a mechanism or a model on this device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from vitbench.cases.axes import AXES
from vitbench.cli import complete, options, parse, run, terminal
from vitbench.errors import BadInput

if TYPE_CHECKING:
    from vitbench.results.journal import Run

# What has the axes of a kind of subject.
_OF = {"attention": "layer", "backbone": "backbone"}


class Setting(options.Axes):
    """A group of options: what all settings share. Each combination of values has its own answer,
    but for dtypes and implementations, which are chosen among."""

    defaults: ClassVar[Mapping[str, str | None]] = {
        name: None for name in AXES if name not in ("attention", "backbone")
    }


@options.grouped
def tune(
    context: typer.Context,
    subject: Annotated[
        str | None,
        typer.Argument(
            help="A mechanism, a backbone, a plugin's name, or a class of a package.",
            autocompletion=complete.mechanism,
        ),
    ] = None,
    *,
    space: Annotated[
        list[str] | None,
        typer.Option(
            help="Values of a hyper-parameter: window_size=1,2,4 or alpha=0:1:0.1; may be "
            "repeated. By default what comes with the subject.",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(help="Draw so many settings from the space, in place of trying all."),
    ] = None,
    axes: Setting,
    bounds: options.Bounds,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="A file with your own mechanism or backbone; may be repeated."),
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help=options.CALIBRATION)] = None,
    effort: Annotated[str, typer.Option(help="quick, default or thorough.")] = "quick",
    rounds: Annotated[
        int, typer.Option(help="Rounds in which what is left in the end is compared.")
    ] = 6,
    machine: options.Machine,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder, as it was planned.")
    ] = None,
    json: options.AsJson = False,
) -> int:
    """Find the best setting: measure all of them, give up what is slower, compare what is left."""
    from vitbench.engine import runner

    carry_out = partial(
        run.carry_out,
        answer=partial(_conclude, json=json),
        quiet=machine.quiet or json,
        command="vitbench tune",
        stderr=json,
    )
    if resume is not None:
        run.check_resume(context, "json")
        return carry_out(runner.resume, resume)
    if subject is None:
        raise BadInput("tune needs a mechanism or a backbone, such as `vitbench tune hilo`")
    from vitbench.cases import space as spaces
    from vitbench.engine import planning
    from vitbench.engine.tune import make_plan
    from vitbench.results.folder import new_folder

    files = tuple(plugin or ())
    kind, _ = parse.subject(subject, planning.plugin_files(files))
    for name, axis in AXES.items():
        is_named = name in ("attention", "backbone")
        is_of_task = name == "resolution" and kind == "backbone"  # which has images of its own
        if axis.of in ("both", _OF[kind]) and not (is_named or is_of_task):
            axes.setdefault(name, axis.defaults)
    plan = make_plan(
        subject,
        kind,
        spaces.parse(space or []),
        axes=axes,
        limits=bounds.limits(),
        trials=trials,
        last_rounds=rounds,
        plugins=files,
        calibration=calibration,
        effort=effort,
        on_note=partial(typer.echo, err=True),
        **machine.settings(),
    )
    if machine.dry_run:
        run.print_plan(plan)
        return 0
    if not json:
        terminal.console().print(f"{plan.title}: {run.outlook(plan)}")
    folder = machine.out or new_folder(run.REPORTS, plan.suite, plan.device)
    return carry_out(partial(runner.measure, plan), folder)


def _conclude(done: Run, folder: Path, *, json: bool) -> int:
    """The answers, and the paths. 1 where a contest has none."""
    from vitbench.analysis.tuning import outcomes
    from vitbench.render import charts, report, tuning
    from vitbench.results.folder import RECORDS

    if done.plan.tuning is None:
        raise BadInput(f"{folder} holds a run that tunes nothing: `vitbench run --resume {folder}`")
    found = outcomes(done.records(), done.medians(), done.plan.tuning)
    if json:
        terminal.echo_json([tuning.summary(one) for one in found])
    else:
        console = terminal.console()
        for one in found:
            for title, lines in tuning.paragraphs(one, done.plan.tuning):
                console.print(f"\n{title}" if title else "", style="bold", soft_wrap=True)
                for line in lines:
                    console.print(line, markup=False, soft_wrap=True)
            console.print("", tuning.table(one, done.plan.tuning))
            if len(one.rows) > tuning.MOST_ROWS:
                console.print(
                    f"{tuning.MOST_ROWS} of {len(one.rows)} settings are shown: "
                    f"`vitbench table {folder} --rows 0` shows all",
                    soft_wrap=True,
                )
    paths = [folder / RECORDS, *charts.draw(folder)]
    try:
        paths += report.write([folder])
    except BadInput as error:  # a file of the user's is in the way: nothing is lost by that
        typer.echo(f"vitbench: no report: {error}", err=True)
    if not json:
        for path in paths:
            terminal.console().print(str(path), style="cyan", soft_wrap=True)
    return 0 if all(one.pick is not None for one in found) else 1
