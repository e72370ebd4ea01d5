"""Everything that is to be seen on a machine with a GPU, in one command and one folder.

    python -m tests.device_report reports/cuda-h100

Runs the CUDA tests, the suite `quick`, the catalogue at three sizes in bf16, `doctor`, and `ab` of
the tree against itself. A part that fails, or takes too long, is named in the folder's README.md,
and the next part runs all the same. `--simulated` tries the command where there is no GPU.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import attentions
from tests.vitbench.examples import ROOT
from vitbench.render import tables


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


def parts(folder: Path, base: Path, *, simulated: bool) -> list[Part]:
    """The parts in order; `base` is a copy of the tree. Together at most ten minutes."""
    device = "accelerator" if simulated else "cuda"
    command = [sys.executable, "-m", "tests.simulated" if simulated else "vitbench"]
    on_device = ["--device", device]
    small = ["--resolution", "64", "--dim", "48", "--heads", "6"] if simulated else []
    sizes = small or ["--resolution", "224,448,672"]
    names = "msa,hilo" if simulated else ",".join(attentions.names())
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    quick = ["run", "quick", *small, *on_device, "--out", str(folder / "quick")]
    catalogue = ["run", "quick", "--attention", names, *sizes, "--dtype", "bfloat16", *on_device]
    compared = ["ab", str(base), str(ROOT), "--attention", "msa,hilo", *small, *on_device]
    return [
        Part("doctor", [*command, "doctor", *on_device], 60),
        Part("quick", [*command, *quick], 90),
        Part("tests", [*tests, "-m", "cuda", str(ROOT / "tests")], 120),
        Part("catalogue", [*command, *catalogue, "--out", str(folder / "catalogue")], 180),
        Part("ab", [*command, *compared, "--budget", "70s", "--out", str(folder / "ab")], 150),
    ]


def carried_out(part: Part, folder: Path) -> Outcome:
    """Runs a part, whose output goes to a file of its name."""
    start = time.monotonic()
    with (folder / f"{part.name}.txt").open("w", encoding="utf-8") as output:
        try:
            status: int | None = subprocess.run(
                part.command,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=part.limit_s,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = None
    return Outcome(part, status, time.monotonic() - start)


def report(folder: Path, *, simulated: bool) -> list[Outcome]:
    """Runs all parts and writes README.md, anew after each."""
    folder.mkdir(parents=True)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as name:
        base = Path(name, "base")
        shutil.copytree(ROOT / "attentions", base / "attentions")
        for part in parts(folder, base, simulated=simulated):
            outcomes.append(carried_out(part, folder))
            (folder / "README.md").write_text(page(outcomes), encoding="utf-8")
    return outcomes


def page(outcomes: Sequence[Outcome]) -> str:
    """What was run, how it ended, and where its output is."""
    rows = [
        (one.part.name, one.words, f"{one.seconds:.0f}", f"[output]({one.part.name}.txt)")
        for one in outcomes
    ]
    table = tables.markdown(("part", "how it ended", "seconds", ""), rows)
    return f"# On a GPU\n\nMade by `make cuda`.\n\n{table}\n"


def main(
    folder: Annotated[Path, typer.Argument(help="A new folder.")],
    *,
    simulated: Annotated[bool, typer.Option(help="Without a GPU, on a simulated one.")] = False,
) -> None:
    """Everything that is to be seen on a machine with a GPU."""
    if folder.exists():
        raise typer.BadParameter(f"{folder} is there already: name a new folder")
    outcomes = report(folder, simulated=simulated)
    typer.echo((folder / "README.md").read_text(encoding="utf-8"))
    raise typer.Exit(any(one.status != 0 for one in outcomes))


if __name__ == "__main__":
    typer.run(main)
