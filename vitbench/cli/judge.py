"""`vitbench compare`, `check`, `baseline`: runs against runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitbench.cli import options, parse, terminal
from vitbench.cli.options import option
from vitbench.errors import BadInput, check_writable, writing

if TYPE_CHECKING:
    from rich.console import Console

    from vitbench.analysis.compare import Verdict
    from vitbench.analysis.gate import Policy, Result
    from vitbench.results.record import Record

_PROJECT = Path("pyproject.toml")
Across = Annotated[
    str | None,
    typer.Option(help="Differences to allow: device, dtype, device_name, torch."),
]


def records(path: Path) -> list[Record]:
    """The rows of a run folder or a CSV file. Raises BadInput."""
    import gc

    from vitbench.results import rows

    # Of 100,000 rows a command makes millions of small objects, nearly all of which stay: looking
    # for those that do not took a third of the time of `compare`, most of it in the rows.
    gc.disable()
    try:
        return rows.read(path)
    finally:
        gc.freeze()
        gc.set_threshold(100_000)
        gc.enable()


def compare(
    base: options.Records,
    candidate: Annotated[Path, typer.Argument(help="The run that is judged.")],
    max_slowdown: Annotated[
        str, typer.Option(help="What is called slower: 5%, never under 1.5 noise floors.")
    ] = "5%",
    across: Across = None,
    json: options.AsJson = False,
) -> None:
    """Compare two runs: ratio of medians with its 95% interval, and a verdict for each case."""
    from vitbench.analysis import compare as comparing
    from vitbench.analysis import gate

    compared = comparing.compare(
        records(base),
        records(candidate),
        threshold=parse.share("--max-slowdown", max_slowdown),
        across=() if across is None else parse.words(across),
    )
    if json:
        terminal.echo_json(gate.summary(gate.Result(tuple(compared), 0, ""))["cases"])
        return
    console = terminal.console()
    _print_verdicts(compared, console)
    if mean := comparing.geometric_mean(compared):
        console.print(f"\ngeometric mean of the latency ratios: {mean:.3f}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """A group of options: the policy, and where its result goes for CI."""

    panel = "Policy and reports"

    policy: Path | None = option(
        None, "A TOML file; by default [tool.vitbench.check] of ./pyproject.toml."
    )
    max_slowdown: str | None = option(None, "5%; by default 10% on a CPU and 5% on a GPU.")
    strict: bool = option(False, "Undecided and incomparable cases fail too.", "--strict")
    github: bool = option(False, "Annotations, and the job's summary.", "--github")
    junit: Path | None = option(None, "Write JUnit XML here.")
    json: Path | None = option(None, "Write the result as JSON here.")

    def rules(self) -> Policy:
        """The policy of the file, else of ./pyproject.toml, after the options.

        Raises BadInput, and StorageFull where a report could not be written: before anything is
        measured.
        """
        from vitbench.analysis import gate

        for path in (self.junit, self.json):
            if path is not None:
                check_writable(path, BadInput)
        if summary := self._summary():
            check_writable(summary)
        policy = gate.Policy()
        if self.policy is not None or _PROJECT.is_file():
            policy = gate.read_policy(self.policy or _PROJECT)
        if self.max_slowdown is not None:
            limit = parse.share("--max-slowdown", self.max_slowdown)
            policy = policy.model_copy(update={"max_slowdown": limit})
        return policy.model_copy(update={"strict": self.strict or policy.strict})

    def _summary(self) -> Path | None:
        """The file of the job's summary."""
        name = os.environ.get("GITHUB_STEP_SUMMARY") if self.github else None
        return Path(name) if name else None

    def check_subjects(self, policy: Policy, measured: Iterable[str]) -> None:
        """Raises BadInput where the policy has limits of what does not exist, nor is measured."""
        from vitbench.analysis import gate

        gate.check_subjects(policy, self.policy or _PROJECT, measured)

    def write(self, result: Result) -> None:
        """Writes the reports that were asked for. Raises StorageFull."""
        from vitbench.render import ci
        from vitbench.results.replacing import replacing

        for path, render in ((self.junit, ci.junit), (self.json, ci.json)):
            if path is not None:
                with writing(path), replacing(path) as file:
                    file.write(render(result))
        if summary := self._summary():
            with writing(summary), summary.open("a", encoding="utf-8") as file:
                file.write(ci.markdown(result))
        if self.github and (commands := ci.workflow_commands(result)):
            print(commands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measuring:
    """A group of options: how the cases of a baseline are measured now."""

    panel = options.MACHINE

    rounds: int | None = option(None, "Fresh worker processes, where it is measured now.")
    threads: int | None = option(None, "CPU threads, where it is measured now.")
    plugin: list[Path] | None = option(None, "A file with a mechanism or backbone of yours.")
    out: Path | None = option(None, "The run folder, where it is measured now.")
    quiet: bool = option(False, "No progress bar.", "--quiet")

    def records(self, base: list[Record], name: str, *, untimed: bool) -> list[Record]:
        """The cases of the baseline of that name, measured here and now."""
        from vitbench.engine import planning, runner
        from vitbench.render.progress import ProgressBar
        from vitbench.results.folder import new_folder

        plan = planning.plan_again(
            base,
            title=f"the cases of {name}",
            plugins=tuple(self.plugin or ()),
            rounds=self.rounds,
            threads=self.threads,
            timed=not untimed,
        )
        folder = self.out or new_folder(Path("reports"), "check", plan.device)
        console = terminal.console()
        with ProgressBar(console, quiet=self.quiet) as bar:
            measured = runner.measure(plan, folder, bar).records()
        console.print(str(folder), style="cyan", soft_wrap=True)
        return measured


@options.grouped
def check(
    baseline: options.Records,
    run: Annotated[
        Path | None,
        typer.Argument(help="The run that is judged; without one the cases are measured now."),
    ] = None,
    *,
    across: Across = None,
    untimed: Annotated[
        bool, typer.Option("--untimed", help="Compare params, MACs and peak memory only.")
    ] = False,
    measuring: Measuring,
    judging: Judging,
) -> int:
    """Judge a run by a policy. Exit status 0 passed, 3 regression, 4 undecided, 5 not measured."""
    from vitbench.analysis import gate
    from vitbench.results.record import subject_of

    policy = judging.rules()
    waived = () if across is None else parse.words(across)
    if run is not None and measuring != Measuring(quiet=measuring.quiet):
        raise BadInput(
            "a RUN is given: nothing is measured, and --out, --rounds, --threads and "
            "--plugin have no use"
        )
    base = records(baseline)
    candidate = [] if run is None else records(run)
    judging.check_subjects(policy, map(subject_of, [*base, *candidate]))
    if run is None:
        candidate = measuring.records(base, baseline.name, untimed=untimed)
    if untimed:
        base, candidate = gate.counted(base), gate.counted(candidate)
    result = gate.check(base, candidate, policy, waived)
    try:
        judging.write(result)
    finally:  # a full disk hides no verdict
        show(result, terminal.console())
    return result.status


def show(result: Result, console: Console) -> None:
    """The table, what is wrong, and the sentence."""
    _print_verdicts(result.verdicts, console)
    for case in result.verdicts:
        for fault in case.faults:
            console.print(fault, style="red")
    console.print(result.sentence)


def _print_verdicts(compared: Sequence[Verdict], console: Console) -> None:
    """The table; of many cases the gravest, and how many are alike."""
    from collections import Counter

    from vitbench.render import verdicts

    shown = verdicts.foremost(compared)
    console.print(verdicts.table(shown))
    if len(shown) < len(compared):
        counts = Counter(verdict.word for verdict in compared).most_common()
        total = ", ".join(f"{count} {word}" for word, count in counts)
        console.print(
            f"{len(shown)} of {len(compared)} cases are shown; in all {total}; JSON has all"
        )


baseline = typer.Typer(help="Keep a baseline to check against.", no_args_is_help=True)


@baseline.command("update")
def update(
    run: Annotated[
        Path, typer.Argument(help="The run to keep, a folder or a CSV file of records.")
    ],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("baseline.csv"),
) -> None:
    """Write the rows of a run as a baseline, a CSV file to commit, with its environment."""
    from vitbench.results.columns import COLUMN_NAMES
    from vitbench.results.csv import write_csv, write_json
    from vitbench.results.folder import environment_file, read_environment
    from vitbench.results.outcome import COUNTED, MEASURED

    rows = [record for record in records(run) if record["status"] in (MEASURED, COUNTED)]
    if not rows:
        raise BadInput(f"{run} holds no measured case: a baseline of nothing would pass anything")
    environment = read_environment(run)
    written = [out]
    with writing(out, BadInput):
        write_csv(out, COLUMN_NAMES, rows)
        if environment:
            written.append(environment_file(out))
            write_json(written[1], {"environment": environment})
    print(f"{' and '.join(str(path) for path in written)}: {len(rows)} cases")
