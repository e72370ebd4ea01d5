"""`vitbench compare`, `check`, `baseline`: runs against runs."""

from __future__ import annotations

import json as jsons
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitbench.cli import parse, terminal
from vitbench.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from vitbench.analysis.gate import Policy, Result
    from vitbench.results.record import Record

Across = Annotated[
    str | None,
    typer.Option(help="Differences to allow: device, dtype, device_name, torch."),
]
Base = Annotated[Path, typer.Argument(help="A run folder, or a CSV file of records.")]
Candidate = Annotated[Path, typer.Argument(help="The run that is judged.")]


def records(path: Path) -> list[Record]:
    """The rows of a run folder or a CSV file. Raises BadInput."""
    from vitbench.results import frame

    return frame.records(frame.read(path))


def compare(
    base: Base,
    candidate: Candidate,
    max_slowdown: Annotated[
        str, typer.Option(help="What is called slower: 5%, never under 1.5 noise floors.")
    ] = "5%",
    across: Across = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compare two runs: ratio of medians with its 95% interval, and a verdict for each case."""
    from vitbench.analysis import compare as comparing
    from vitbench.analysis import gate
    from vitbench.render import verdicts

    compared = comparing.compare(
        records(base),
        records(candidate),
        threshold=share("--max-slowdown", max_slowdown),
        across=() if across is None else parse.words(across),
    )
    if json:
        judged = tuple(gate.Judged(verdict, ()) for verdict in compared)
        cases = gate.summary(gate.Result(judged, 0, ""))["cases"]
        typer.echo(jsons.dumps(cases, indent=2, ensure_ascii=False))
        return
    console = terminal.console()
    console.print(verdicts.table(compared))
    if mean := comparing.geometric_mean(compared):
        console.print(f"\ngeometric mean of the latency ratios: {mean:.3f}")


def share(option: str, text: str) -> float:
    """The value of an option such as `5%`. Raises BadInput."""
    from vitbench.analysis import gate

    try:
        return gate.share(text)
    except ValueError as error:
        raise BadInput(f"{option}: {error}") from None


MaxSlowdown = Annotated[
    str | None, typer.Option(help="5%; by default 10% on a CPU and 5% on a GPU.")
]
PolicyFile = Annotated[
    Path | None,
    # The backslash: rich takes brackets for markup.
    typer.Option(help=r"A TOML file; by default \[tool.vitbench.check] of ./pyproject.toml."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Undecided and incomparable cases fail too.")
]
Github = Annotated[bool, typer.Option("--github", help="Annotations, and the job's summary.")]
Junit = Annotated[Path | None, typer.Option(help="Write JUnit XML here.")]
Json = Annotated[Path | None, typer.Option(help="Write the result as JSON here.")]


def check(
    baseline: Base,
    run: Annotated[
        Path | None,
        typer.Argument(help="The run that is judged; without one the cases are measured now."),
    ] = None,
    policy: PolicyFile = None,
    max_slowdown: MaxSlowdown = None,
    strict: Strict = False,
    across: Across = None,
    untimed: Annotated[
        bool, typer.Option("--untimed", help="Compare params, MACs and peak memory only.")
    ] = False,
    rounds: Annotated[
        int | None, typer.Option(help="Fresh worker processes, where it is measured now.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads, where it is measured now.")
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="A file with a mechanism or backbone of yours.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run folder, where it is measured now.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
    github: Github = False,
    junit: Junit = None,
    json: Json = None,
) -> int:
    """Judge a run by a policy. Exit status 0 passed, 3 regression, 4 undecided, 5 not measured."""
    from vitbench.analysis import gate

    rules = read_policy(policy, max_slowdown, strict)
    waived = () if across is None else parse.words(across)
    base = records(baseline)
    if run is None:
        candidate = _measure(base, baseline, out, plugin or [], rounds, threads, untimed, quiet)
    elif out is not None or rounds is not None or threads is not None or plugin:
        raise BadInput(
            "a RUN is given: nothing is measured, and --out, --rounds, --threads and "
            "--plugin have no use"
        )
    else:
        candidate = records(run)
    if untimed:
        base, candidate = gate.counted(base), gate.counted(candidate)
    result = gate.check(base, candidate, rules, waived)
    write(result, ReportPaths(junit, json, github))
    show(result, terminal.console())
    return result.status


def _measure(
    base: list[Record],
    baseline: Path,
    out: Path | None,
    plugins: list[Path],
    rounds: int | None,
    threads: int | None,
    untimed: bool,
    quiet: bool,
) -> list[Record]:
    """The cases of the baseline, measured here and now."""
    from vitbench.engine import planning, runner
    from vitbench.render.progress import ProgressBar
    from vitbench.results.folder import new_folder

    plan = planning.plan_again(
        base,
        title=f"the cases of {baseline.name}",
        plugins=tuple(plugins),
        rounds=rounds,
        threads=threads,
        timed=not untimed,
    )
    folder = out or new_folder(Path("reports"), "check", plan.device)
    console = terminal.console()
    with ProgressBar(console, quiet=quiet) as bar:
        measured = runner.measure(plan, folder, bar).records()
    console.print(str(folder), style="cyan")
    return measured


def read_policy(path: Path | None, max_slowdown: str | None, strict: bool) -> Policy:
    """The policy of a file, else of ./pyproject.toml, with the options on top. Raises BadInput."""
    from vitbench.analysis import gate

    project = Path("pyproject.toml")
    if path is not None or project.is_file():
        policy = gate.read_policy(path or project)
    else:
        policy = gate.Policy()
    if max_slowdown is not None:
        policy = policy.model_copy(update={"max_slowdown": share("--max-slowdown", max_slowdown)})
    return policy.model_copy(update={"strict": strict or policy.strict})


def show(result: Result, console: Console) -> None:
    """The table, what is wrong, and the sentence."""
    from vitbench.render import verdicts

    console.print(verdicts.table([case.verdict for case in result.judged]))
    for case in result.judged:
        for fault in case.faults:
            console.print(fault, style="red", markup=False)
    console.print(result.sentence)


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Where a result goes for CI: JUnit XML, JSON, and whether GitHub's forms are written."""

    junit: Path | None
    json: Path | None
    github: bool


def write(result: Result, reports: ReportPaths) -> None:
    """Writes the reports that were asked for. Raises BadInput."""
    from vitbench.render import ci

    for path, render in ((reports.junit, ci.junit), (reports.json, ci.json)):
        if path is None:
            continue
        try:
            path.write_text(render(result), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}") from None
    if not reports.github:
        return
    if commands := ci.workflow_commands(result):
        typer.echo(commands)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(ci.markdown(result))


baseline = typer.Typer(help="Keep a baseline to check against.", no_args_is_help=True)


@baseline.command("update")
def update(
    run: Annotated[Path, typer.Argument(help="The run folder to keep.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("baseline.csv"),
) -> None:
    """Write the rows of a run as a baseline, a CSV file that one commits, with its environment."""
    from vitbench.results.columns import COLUMN_NAMES
    from vitbench.results.csv import write_csv, write_json
    from vitbench.results.folder import environment_file, read_environment
    from vitbench.results.outcome import COUNTED, MEASURED

    rows = [record for record in records(run) if record["status"] in (MEASURED, COUNTED)]
    if not rows:
        raise BadInput(f"{run} holds no measured case: a baseline of nothing would pass anything")
    environment = read_environment(run)
    written = [out]
    try:
        write_csv(out, COLUMN_NAMES, rows)
        if environment:
            written.append(environment_file(out))
            write_json(written[1], {"environment": environment})
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error.strerror}") from None
    typer.echo(f"{' and '.join(str(path) for path in written)}: {len(rows)} cases")
