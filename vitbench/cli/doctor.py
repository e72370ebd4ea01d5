"""`vitbench doctor`: what a run here and now could be trusted with."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitbench.cli import terminal
from vitbench.cli.options import DEVICE, AsJson
from vitbench.cli.run import REPORTS

if TYPE_CHECKING:
    from vitbench.analysis.doctor import Finding
    from vitbench.results.record import Record


def doctor(
    device: Annotated[str, typer.Option(help=DEVICE)] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; all usable by default.")] = None,
    json: AsJson = False,
) -> None:
    """Examine the machine before a run: what costs precision, and the remedy.

    Watches it for a second, then measures one small layer in three fresh processes.
    """
    from vitbench.analysis import doctor as doctors
    from vitbench.instruments import host

    snapshot = host.watch(REPORTS, threads or host.usable_cores())
    environment, row = examine(device, threads)
    findings = doctors.findings(environment, snapshot)
    grade = doctors.expected_grade(findings, row)
    if json:
        report = {
            "expected_trust": grade,
            "findings": [dataclasses.asdict(finding) for finding in findings],
            "int8": doctors.int8(environment),
            "machine": dataclasses.asdict(snapshot),
            "noise_floor": {name: row[name] for name in _FLOOR},
            "environment": environment,
        }
        terminal.echo_json(report)
        return
    _print(environment, findings, row, grade)


def examine(device: str, threads: int | None) -> tuple[dict[str, Any], Record]:
    """The environment, and the row of one small layer measured in three fresh processes: the noise
    floor of this machine at this moment. Raises BadInput.
    """
    from vitbench.cases.case import Resolution
    from vitbench.engine import runner
    from vitbench.engine.planning import make_plan

    axes = {"attention": ("msa",), "resolution": (Resolution(224, 224),)}
    plan = make_plan(device=device, threads=threads, axes=axes, rounds=3)
    with tempfile.TemporaryDirectory() as folder:
        run = runner.measure(plan, Path(folder))
    return run.environment, run.records()[0]


_FLOOR = ("latency_s", "noise", "round_spread", "samples", "rounds", "trust", "trust_reasons")


def _print(
    environment: Mapping[str, Any], findings: Sequence[Finding], row: Record, grade: str
) -> None:
    from vitbench.analysis import doctor as doctors
    from vitbench.render import tables
    from vitbench.results.outcome import MEASURED

    console = terminal.console()
    console.print(f"{environment['device_name']}, torch {environment['torch']['version']}\n")
    if findings:
        rows = [(each.grade or "-", each.what, each.limit, each.remedy) for each in findings]
        console.print(tables.listing(("trust", "finding", "good is", "remedy"), rows))
    else:
        console.print("nothing found that costs precision")
    if sentence := doctors.int8(environment):
        console.print(f"\nint8: {sentence}", soft_wrap=True)
    if row["status"] != MEASURED:
        console.print(f"\na small layer could not be measured: {row['status']}: {row['message']}")
        return
    noise, spread = (f"{float(str(row[name])):.1%}" for name in ("noise", "round_spread"))
    reasons = f" ({row['trust_reasons']})" if row["trust_reasons"] else ""
    console.print(
        f"\none small layer in {row['rounds']} fresh processes: the median is known to {noise}, "
        f"and the processes differ by {spread}\nexpected trust of a row: {grade}{reasons}"
    )
