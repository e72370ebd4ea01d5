"""The progress bar of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

from vitbench.analysis import stats
from vitbench.cases.row import name_of
from vitbench.engine.runner import Progress
from vitbench.render import units
from vitbench.results.outcome import Failed, Measured

if TYPE_CHECKING:
    from vitbench.engine import ab as interleaved


class _Bar:
    """A bar that is gone when the work ends; nothing where no terminal shows it."""

    def __init__(self, console: Console, *columns: str | ProgressColumn, quiet: bool) -> None:
        hidden = quiet or not console.is_terminal
        self._bar = Bar(*columns, console=console, transient=True, disable=hidden)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


class ProgressBar(_Bar):
    """Shows done and left, the case under way and the last figure; plain lines off a terminal."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self._console = console
        self._last = ""
        super().__init__(
            console,
            TextColumn("round {task.fields[round]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", style="bold", markup=False),
            TextColumn("{task.fields[last]}", style="dim", markup=False),
            quiet=quiet,
        )
        self._task = self._bar.add_task("starting", total=None, round=1, last="")

    def __call__(self, progress: Progress) -> None:
        case, outcome = progress.case, progress.outcome
        if isinstance(outcome, Failed):
            self._console.print(
                f"{name_of(case)}: {outcome.kind}: {outcome.message}", style="red", markup=False
            )
            self._last = f"{case.subject}: {outcome.kind}"
        elif isinstance(outcome, Measured):
            rate = case.batch_size / stats.median(outcome.samples_s)
            self._last = f"{case.subject} {case.resolution}: {units.significant(rate)} images/s"
        self._bar.update(
            self._task,
            completed=progress.done,
            total=progress.total,
            description=f"{name_of(case)} {progress.where}".strip(),
            round=progress.round_index + 1,
            last=self._last,
        )


class ComparisonBar(_Bar):
    """Shows the block under way, how many cases are settled, and the case."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        super().__init__(
            console,
            TextColumn("block {task.fields[block]}, settled"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", style="bold", markup=False),
            quiet=quiet,
        )
        self._task = self._bar.add_task("starting", total=None, block=1)

    def __call__(self, progress: interleaved.Progress) -> None:
        self._bar.update(
            self._task,
            completed=progress.settled,
            total=progress.total,
            description=name_of(progress.case) + (", again" if progress.is_again else ""),
            block=progress.block + 1,
        )
