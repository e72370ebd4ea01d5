"""The commands, thin: parse, call, print. One file for each group of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import vitbench
from vitbench.cli import (
    ab,
    advise,
    convert,
    doctor,
    export,
    info,
    insight,
    judge,
    merge,
    new,
    report,
    run,
    show,
    spectrum,
    trend,
    tune,
)

# What the command line may raise. The base of all errors of usage is ClickException, whose module
# differs between releases of typer; it has no other name there.
Aborted = typer.Abort
UsageError: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="vitbench",
    help="Measure vision attention on this machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"vitbench {vitbench.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("run")(run.run)
app.command("merge")(merge.merge)
app.command("doctor")(doctor.doctor)
app.command("list")(show.list_)
app.command("info")(info.info)
app.command("plot")(show.plot)
app.command("report")(report.report)
app.command("view")(report.view)
app.command("table")(show.table)
app.command("advise")(advise.advise)
app.command("insight")(insight.insight)
app.command("columns")(show.columns)
app.command("export")(export.export)
app.command("new")(new.new)
app.command("ab")(ab.ab)
app.command("compare")(judge.compare)
app.command("check")(judge.check)
app.command("trend")(trend.trend)
app.command("convert")(convert.convert)
app.command("spectrum")(spectrum.spectrum)
app.command("tune")(tune.tune)
app.add_typer(judge.baseline, name="baseline")
