"""`vitbench ab`: two versions of the code, measured in turns and judged."""

from __future__ import annotations

import dataclasses
import functools
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitbench.cli import complete, judge, options, parse, terminal
from vitbench.cli.options import option
from vitbench.errors import BadInput, BrokenPlugin, writing

if TYPE_CHECKING:
    from types import FrameType

    from vitbench.cases.plan import Plan
    from vitbench.engine.ab import AbComparison, Rules


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """A group of options: how much work goes into each case."""

    panel = options.PRECISION

    reading: float = option(0.5, "Sampling of each version in a block, seconds.")
    max_blocks: int = option(40, "Most blocks of a case, and as many again of one that is called.")
    budget: str | None = option(None, "No block starts after this time, such as 3m.")

    def rules(self) -> Rules:
        """Raises BadInput."""
        from vitbench.engine.ab import Rules

        if not 0 < self.reading < 1e3:
            raise BadInput(f"--reading must be a positive time in seconds, got {self.reading:g}")
        budget_s = None if self.budget is None else parse.duration(self.budget)
        rules = Rules(self.max_blocks, budget_s)
        return dataclasses.replace(rules, slice_s=self.reading / (2 * rules.abba_cycles))

    def timed(self, plan: Plan) -> Plan:
        """The plan with a shorter warm-up, as far as its device allows, and the same kernels in
        every process."""
        from vitbench.cases import plan as plans

        rule = dataclasses.replace(
            plan.rule,
            warmup_calls=3,
            warmup_s=self.reading / 10,
            # Waiting until two blocks of calls agree takes longer on a noisy machine than the turns
            # that follow, which are compared with their neighbours on the other side.
            warmup_agree=1.0,
            sample_s=0.002,
        )
        rule = plans.warm_on(rule, plan.device)
        return dataclasses.replace(plan, rule=rule, autotune=False)


@options.grouped
def ab(
    base: Annotated[str, typer.Argument(help="A git revision, a folder, or a Python environment.")],
    head: Annotated[
        str | None, typer.Argument(help="The same; by default the working tree as it is.")
    ] = None,
    *,
    suite: Annotated[
        str, typer.Option(help=options.SUITE, autocompletion=complete.suites)
    ] = "quick",
    axes: options.Axes,
    selection: options.Selection,
    machine: options.Machine,
    precision: Precision,
    judging: judge.Judging,
) -> int:
    """Measure two versions in turns, A B B A, and judge. Exit statuses are those of check."""
    policy = judging.rules()
    limits = precision.rules()
    from vitbench.cases.class_names import is_class
    from vitbench.engine import ab as interleaved
    from vitbench.engine import planning, revision
    from vitbench.results.folder import make_folder, new_folder

    signal.signal(signal.SIGTERM, _interrupt)  # a cancelled job cleans up as after Ctrl-C
    with revision.checkout(base, head) as sides:
        has_own = bool(selection.plugin) or any(
            is_class(str(text)) for text in axes.get("attention", ())
        )
        if (reason := revision.same_code(*sides, has_own)) is not None:
            raise BadInput(f"there is nothing to compare: {reason}")
        plugins = [revision.locate(path, *sides) for path in selection.plugin or ()]
        plan = planning.make_plan(
            suite,
            axes=axes,
            **selection.settings() | {"plugins": tuple(plugins)},
            effort="quick",
            registry=sides[1].registry(),
            elsewhere=all(side.target.python is not None for side in sides),
            on_note=functools.partial(typer.echo, err=True),
            **machine.settings(),
        )
        plan = precision.timed(plan)
        judging.check_subjects(
            policy, [*sides[1].registry(), *(case.subject for case in plan.cases)]
        )
        words = ["vitbench ab", base, *([head] if head else [])]
        words += [f"--plugin {path}" for path in selection.plugin or ()]
        folder = machine.out or new_folder(Path("reports"), "ab", plan.device)
        comparison = interleaved.AbComparison(
            plan, sides, policy, limits, folder, command=" ".join(words)
        )
        if machine.dry_run:
            comparison.check_plugins()
            _outlook(comparison)
            return 0
        make_folder(folder)
        return _carry_out(comparison, folder, judging, quiet=machine.quiet)


def _outlook(comparison: AbComparison) -> None:
    from vitbench.cases.row import name_of
    from vitbench.render import tables

    console = terminal.console()
    console.print(comparison.title())
    rows = [[name_of(pair.head), pair.incomparable_reason] for pair in comparison.pairs]
    console.print(tables.listing(("case", ""), rows))
    console.print(f"\n{_blocks(comparison)}")


def _blocks(comparison: AbComparison) -> str:
    """How many blocks a case takes, or that they cannot suffice."""
    from vitbench.engine import ab as interleaved

    least = interleaved.blocks_needed(sum(pair.base is not None for pair in comparison.pairs))
    most = comparison.rules.max_blocks
    if most < least:
        return (
            f"--max-blocks {most} is too few to call any case slower, which takes {least} blocks: "
            "a slowdown would be undecided"
        )
    return f"{least} to {most} blocks of A B B A, and as many again for a case that is called"


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


def _carry_out(
    comparison: AbComparison, folder: Path, judging: judge.Judging, *, quiet: bool
) -> int:
    from vitbench.engine import ab as interleaved
    from vitbench.render.progress import ComparisonBar
    from vitbench.results.csv import write_json
    from vitbench.results.folder import discard

    console = terminal.console()
    console.print(comparison.title())
    console.print(_blocks(comparison))
    interrupted = False
    with ComparisonBar(console, quiet=quiet) as bar:
        comparison.on_progress = bar
        try:
            result = comparison.measure()
        except BrokenPlugin:  # before anything was measured
            discard(folder, interleaved.READINGS)
            raise
        except KeyboardInterrupt:
            interrupted = True
            result = comparison.finish()
    try:
        with writing(folder):
            write_json(folder / "result.json", comparison.summary(result))
        judging.write(result)
    finally:  # a full disk hides no verdict
        judge.show(result, console)
    console.print(f"{comparison.blocks} blocks in {comparison.seconds:.0f} s; {folder}")
    from vitbench.render import forest  # last: where there are no charts, there are verdicts

    with writing(folder):
        forest.save(result, comparison.title(), folder)
    if interrupted:
        typer.echo("vitbench: interrupted; the verdicts are of what was measured", err=True)
        return 130
    return result.status
