"""Everything that is to be seen on a machine with a GPU, in one command and one folder.

    python -m tests.device_report reports/cuda-h100

Runs `doctor`, the suite `quick` with energy, the CUDA tests, the catalogue at three sizes in bf16,
one mechanism in every runtime that is installed, and `ab` of the tree against itself. A part that
fails, or takes too long, is named in the folder's README.md, and the next part runs all the same.
`--simulated` tries the command where there is no GPU.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

import attentions
from tests.vitbench.examples import ROOT, read_csv
from vitbench.analysis import trust
from vitbench.cases.row import name_of
from vitbench.render import tables
from vitbench.results.outcome import MEASURED

# How long a part whose time is up may take to write what it has.
_GRACE_S = 20.0
# What a GPU may not tell, or a case may not have.
_MAY_BE_EMPTY = (
    "device_latency_s",
    "peak_memory_bytes",
    "energy_j_img",
    "sm_clock_hz",
    "temperature_c",
    "power_w",
    "gpu_idle_utilisation",
)


@dataclass(frozen=True, slots=True)
class Part:
    """A command, and how long it may take, seconds."""

    name: str
    command: Sequence[str]
    limit_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a part ended: its exit status, None where its time was up, and how long it took."""

    part: Part
    status: int | None
    seconds: float

    @property
    def words(self) -> str:
        """For the table."""
        if self.status is None:
            return f"not done within {self.part.limit_s:.0f} s"
        return "done" if self.status == 0 else f"failed: exit status {self.status}"


def parts(folder: Path, *, simulated: bool) -> list[Part]:
    """The parts in order. Together at most ten minutes.

    Paths in their commands are relative to the tree, since they stand in what is committed.
    """
    device = "accelerator" if simulated else "cuda"
    command = [sys.executable, "-m", "tests.simulated" if simulated else "vitbench"]
    on_device = ["--device", device]
    small = ["--dim", "48", "--heads", "6", "--batch-size", "2"] if simulated else []
    quick_sizes = ["--resolution", "64"] if simulated else []
    three_sizes = ["--resolution", "48,64,80" if simulated else "224,448,672"]
    ab_sizes = ["--resolution", "64" if simulated else "224"]
    names = "msa,hilo" if simulated else ",".join(attentions.names())
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]

    def out(name: str) -> list[str]:
        return [*small, *on_device, "--out", os.path.relpath(folder / name, ROOT)]

    quick = ["run", "quick", *quick_sizes, "--energy-time", "2", *out("quick")]
    catalogue = ["run", "quick", "--attention", names, *three_sizes, "--dtype", "bfloat16"]
    every = "eager,tensorrt" if simulated else "all"  # those that are not installed are left out
    converted = ["run", "quick", "--attention", "msa", "--runtime", every, "--dtype", "float16"]
    converted += ab_sizes
    compared = ["ab", os.path.relpath(folder / "base", ROOT), ".", "--attention", "msa,hilo"]
    return [
        Part("doctor", [*command, "doctor", *on_device], 45),
        Part("quick", [*command, *quick], 140),
        Part("tests", [*tests, "-m", "cuda and not slow", "tests"], 140),
        Part("catalogue", [*command, *catalogue, "--budget", "105s", *out("catalogue")], 115),
        Part("runtimes", [*command, *converted, "--budget", "75s", *out("runtimes")], 85),
        Part("ab", [*command, *compared, *ab_sizes, "--budget", "50s", *out("ab")], 75),
    ]


def carried_out(part: Part, folder: Path) -> Outcome:
    """Runs a part, whose output goes to a file of its name. When its time is up it is interrupted,
    as by Ctrl-C, so that it writes what it measured."""
    start, path = time.monotonic(), folder / f"{part.name}.txt"
    with path.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        status: int | None = None
        try:
            status = process.wait(part.limit_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
        finally:
            process.kill()
            process.wait()
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = (line.rstrip() for line in text.replace(f"{ROOT}/", "").splitlines())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Outcome(part, status, time.monotonic() - start)


@contextlib.contextmanager
def copied_tree(folder: Path) -> Iterator[None]:
    """A copy of what is compared with itself, while this lasts."""
    shutil.copytree(ROOT / "attentions", folder / "base" / "attentions")
    try:
        yield
    finally:
        shutil.rmtree(folder / "base")


def report(folder: Path, *, simulated: bool) -> list[Outcome]:
    """Runs all parts and writes README.md, anew after each."""
    folder.mkdir(parents=True)
    outcomes: list[Outcome] = []
    with copied_tree(folder):
        for part in parts(folder, simulated=simulated):
            typer.echo(f"{part.name}: at most {part.limit_s:.0f} s", err=True)
            outcomes.append(carried_out(part, folder))
            (folder / "README.md").write_text(page(folder, outcomes), encoding="utf-8")
    return outcomes


def page(folder: Path, outcomes: Sequence[Outcome]) -> str:
    """On which GPU what was run, how it ended, what was measured, and what was not."""
    rows = [
        (one.part.name, one.words, f"{one.seconds:.0f}", f"[output]({one.part.name}.txt)")
        for one in outcomes
    ]
    blocks = [
        "# A machine with a GPU",
        f"Made by `make cuda` on {time.strftime('%Y-%m-%d')}.",
        tables.markdown(("part", "how it ended", "seconds", ""), rows),
    ]
    for name in (one.part.name for one in outcomes):
        is_run = (folder / name / "records.csv").exists()
        blocks += [f"## {name}", *(_of_run(folder, name) if is_run else [_end(folder, name)])]
    return "\n\n".join(blocks) + "\n"


def _end(folder: Path, name: str) -> str:
    """The last lines that a part printed."""
    lines = (folder / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return "\n".join(["```text", *lines[-4:], "```"])


def _of_run(folder: Path, name: str) -> Iterator[str]:
    """What one run measured, on what, and what it did not."""
    rows = read_csv(folder / name / "records.csv")
    measured = [row for row in rows if row["status"] == MEASURED]
    facts = json.loads((folder / name / "environment.json").read_text(encoding="utf-8"))
    yield f"On {_hardware(facts['environment'])}."
    grades = trust.summary(Counter(row["trust"] for row in measured))
    yield (
        f"{len(measured)} of {len(rows)} cases were measured ([records]({name}/records.csv)), with "
        f"trust {grades or 'none'}."
    )
    for chart in sorted((folder / name / "plots").glob("*.png")):
        yield f"![{chart.stem}]({name}/plots/{chart.name})"
    others = [row for row in rows if row["status"] != MEASURED]
    failed = [(name_of(row), row["status"], _cell(row["message"])) for row in others]
    if failed:
        yield tables.markdown(("not measured", "status", "why"), failed)
    empty = {column: sum(not row.get(column) for row in measured) for column in _MAY_BE_EMPTY}
    unknown = [f"`{column}` in {count}" for column, count in empty.items() if count]
    if unknown:
        yield f"Empty, in how many of the measured rows: {', '.join(unknown)}."
    notes = Counter(row["notes"] for row in measured if row.get("notes"))
    if notes:
        told = [(_cell(note), str(count)) for note, count in notes.most_common(10)]
        yield tables.markdown(("note", "rows"), told)


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    return text.replace("|", "\\|")


def _hardware(environment: Mapping[str, Any]) -> str:
    """The device, its driver, torch, and the commit."""
    gpu, code = environment.get("gpu", {}), environment["code"]
    words = [environment["device_name"]]
    if gpu.get("driver"):
        words.append(f"driver {gpu['driver']}")
    if gpu.get("unreadable"):
        words.append(gpu["unreadable"])
    words.append(f"torch {environment['torch']['version']}")
    if code:
        words.append(f"commit {code['commit'][:10]}{' with changes' if code['dirty'] else ''}")
    return ", ".join(words)


def main(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    *,
    simulated: Annotated[bool, typer.Option(help="Without a GPU, on a simulated one.")] = False,
) -> None:
    """Everything that is to be seen on a machine with a GPU."""
    if folder.exists():
        raise typer.BadParameter(f"{folder} is there already: name a new folder")
    outcomes = report(folder.resolve(), simulated=simulated)
    typer.echo((folder / "README.md").read_text(encoding="utf-8"))
    raise typer.Exit(any(one.status != 0 for one in outcomes))


if __name__ == "__main__":
    typer.run(main)
