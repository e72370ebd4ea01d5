"""`vitbench compare`, `check`, `baseline`: runs against runs."""

from __future__ import annotations

import json as jsons
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitbench.cli import parse, terminal
from vitbench.errors import BadInput

if TYPE_CHECKING:
    from vitbench.gate import Policy, Result
    from vitbench.record import Record

Across = Annotated[
    str | None,
    typer.Option(help="Differences to allow: device, dtype, device_name, torch."),
]
Base = Annotated[Path, typer.Argument(help="A run folder, or a CSV file of records.")]
Candidate = Annotated[Path, typer.Argument(help="The run that is judged.")]


def _records(path: Path) -> list[Record]:
    from vitbench import frame

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
    from vitbench import compare as comparing
    from vitbench import gate
    from vitbench.render import verdicts

    found = comparing.compare(
        _records(base),
        _records(candidate),
        threshold=_share("--max-slowdown", max_slowdown),
        across=() if across is None else parse.words(across),
    )
    if json:
        judged = tuple(gate.Judged(verdict, ()) for verdict in found)
        told = dict(gate.summary(gate.Result(judged, 0, "")))
        typer.echo(jsons.dumps(told["cases"], indent=2, ensure_ascii=False))
        return
    console = terminal.console()
    console.print(verdicts.table(found))
    if mean := comparing.geometric_mean(found):
        console.print(f"\ngeometric mean of the latency ratios: {mean:.3f}")


def _share(option: str, text: str) -> float:
    from vitbench import gate

    try:
        return gate.share(text)
    except ValueError as error:
        raise BadInput(f"{option}: {error}") from None


def check(
    baseline: Base,
    run: Candidate,
    policy: Annotated[
        Path | None, typer.Option(help="TOML; else [tool.vitbench.check] of ./pyproject.toml.")
    ] = None,
    max_slowdown: Annotated[
        str | None, typer.Option(help="5%; by default 10% on a CPU and 5% on a GPU.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Undecided and incomparable cases fail too.")
    ] = False,
    across: Across = None,
    github: Annotated[
        bool, typer.Option("--github", help="Annotations, and the job's summary.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the result as JSON here.")] = None,
) -> int:
    """Judge a run by a policy. Exit status 0 passed, 3 regression, 4 undecided, 5 not measured."""
    from vitbench import gate
    from vitbench.render import verdicts

    rules = _policy(policy, max_slowdown, strict)
    waived = () if across is None else parse.words(across)
    result = gate.check(_records(baseline), _records(run), rules, waived)
    console = terminal.console()
    console.print(verdicts.table([one.verdict for one in result.judged]))
    _write(result, junit, json, github=github)
    for one in result.judged:
        for fault in one.faults:
            console.print(fault, style="red", markup=False)
    console.print(result.sentence)
    return result.status


def _policy(path: Path | None, max_slowdown: str | None, strict: bool) -> Policy:
    from vitbench import gate

    here = Path("pyproject.toml")
    if path is not None:
        found = gate.read_policy(path)
    else:
        found = gate.read_policy(here) if here.is_file() else gate.Policy()
    if max_slowdown is not None:
        found = found.model_copy(update={"max_slowdown": _share("--max-slowdown", max_slowdown)})
    return found.model_copy(update={"strict": strict or found.strict})


def _write(result: Result, junit: Path | None, json: Path | None, *, github: bool) -> None:
    """The forms that a CI reads."""
    from vitbench import gate
    from vitbench.render import verdicts

    texts = []
    if junit is not None:
        texts.append((junit, verdicts.junit(result)))
    if json is not None:
        texts.append((json, jsons.dumps(gate.summary(result), indent=2) + "\n"))
    for path, text in texts:
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error.strerror}") from None
    if not github:
        return
    if told := verdicts.workflow_commands(result):
        typer.echo(told)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with open(summary, "a", encoding="utf-8") as file:
            file.write(verdicts.markdown(result))


baseline = typer.Typer(help="Keep a baseline to check against.", no_args_is_help=True)


@baseline.command("update")
def update(
    run: Annotated[Path, typer.Argument(help="The run folder to keep.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")] = Path("baseline.csv"),
) -> None:
    """Write the measured rows of a run as a baseline, a CSV file that one commits."""
    from vitbench import store
    from vitbench.record import COLUMN_NAMES, MEASURED

    rows = [record for record in _records(run) if record["status"] == MEASURED]
    if not rows:
        raise BadInput(f"{run} holds no measured case: a baseline of nothing would pass anything")
    try:
        store.write_csv(out, COLUMN_NAMES, rows)
    except OSError as error:
        raise BadInput(f"{out} cannot be written: {error.strerror}") from None
    typer.echo(f"{out}: {len(rows)} cases")
