"""`vitbench doctor`: what a run here and now could be trusted with."""

from __future__ import annotations

import dataclasses
import json as jsons
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitbench.cli import terminal
from vitbench.cli.run import REPORTS

if TYPE_CHECKING:
    from vitbench.results.record import Record


def doctor(
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; all usable by default.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Examine the machine before a run: what costs precision, and the remedy.

    Watches it for a second, then measures one small layer in three fresh processes.
    """
    from vitbench.analysis import doctor as doctors
    from vitbench.engine import session

    live = doctors.watch(REPORTS)
    environment, row = session.examine(device, threads)
    found = doctors.findings(environment, live)
    grade = doctors.expected_grade(found, row)
    if json:
        told: dict[str, Any] = {
            "expected_trust": grade,
            "findings": [dataclasses.asdict(one) for one in found],
            "machine": dataclasses.asdict(live),
            "noise_floor": {name: row[name] for name in _FLOOR},
            "environment": environment,
        }
        typer.echo(jsons.dumps(told, indent=2, ensure_ascii=False))
        return
    _print(environment, found, row, grade)


_FLOOR = ("latency_s", "noise", "round_spread", "samples", "rounds", "trust", "trust_reasons")


def _print(environment: dict[str, Any], found: list[Any], row: Record, grade: str) -> None:
    from vitbench.render import tables

    console = terminal.console()
    console.print(f"{environment['device_name']}, torch {environment['torch']['version']}\n")
    if found:
        rows = [(one.grade or "-", one.what, one.limit, one.remedy) for one in found]
        console.print(tables.listing(("trust", "finding", "good is", "remedy"), rows))
    else:
        console.print("nothing found that costs precision")
    if row["status"] != "measured":
        console.print(f"\na small layer could not be measured: {row['status']}: {row['message']}")
        return
    console.print(
        f"\none small layer in {row['rounds']} fresh processes: the median is known to "
        f"{_share(row['noise'])}, and the processes differ by {_share(row['round_spread'])}\n"
        f"expected trust of a row: {grade}" + _why(row)
    )


def _why(row: Record) -> str:
    return f" ({row['trust_reasons']})" if row["trust_reasons"] else ""


def _share(value: object) -> str:
    return f"{float(str(value)):.1%}"
