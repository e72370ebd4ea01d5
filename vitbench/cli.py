"""The commands, thin: parse, call, print."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import attentions
import vitbench
from vitbench.errors import BadInput

if TYPE_CHECKING:
    from rich.console import Console

    from vitbench.plan import Plan
    from vitbench.store import Run

app = typer.Typer(
    name="vitbench",
    help="Measure vision attention on the machine in front of you.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

REPORTS = Path("reports")


def _split(text: str) -> list[str]:
    """`a,b` -> [a, b]. An empty item is a slip of the keyboard, and is refused."""
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise BadInput(f"a list is values with commas between, got {text!r}")
    return items


def _complete_names(incomplete: str) -> Iterator[str]:
    """Completes the last of a comma-separated list of mechanisms."""
    before, comma, last = incomplete.rpartition(",")
    for name in ("all", *attentions.names()):
        if name.startswith(last):
            yield f"{before}{comma}{name}"


def _complete_suites(incomplete: str) -> Iterator[str]:
    from vitbench import suite

    yield from (name for name in suite.names() if name.startswith(incomplete))


def _complete_params(incomplete: str) -> Iterator[str]:
    for name in attentions.names():
        keywords = attentions.outline(attentions.path_of(name)).keywords or {}
        for key in keywords:
            if f"{name}.{key}=".startswith(incomplete):
                yield f"{name}.{key}="


def _wholes(option: str) -> Callable[[str], tuple[int, ...]]:
    def parse(text: str) -> tuple[int, ...]:
        try:
            return tuple(int(item) for item in _split(text))
        except ValueError:
            raise BadInput(f"{option} takes whole numbers like 8,16, got {text!r}") from None

    return parse


def _truths(option: str) -> Callable[[str], tuple[bool, ...]]:
    def parse(text: str) -> tuple[bool, ...]:
        words = {"true": True, "false": False, "yes": True, "no": False}
        for item in _split(text):
            if item.lower() not in words:
                raise BadInput(f"{option} takes true, false or true,false, got {item!r}")
        return tuple(words[item.lower()] for item in _split(text))

    return parse


def _attentions(text: str) -> tuple[str, ...]:
    items = [attentions.names() if item == "all" else (item,) for item in _split(text)]
    return tuple(dict.fromkeys(name for group in items for name in group))


def _resolutions(text: str) -> tuple[Any, ...]:
    from vitbench.case import Resolution

    return tuple(Resolution.parse(item) for item in _split(text))


def _dtypes(text: str) -> tuple[str, ...]:
    from vitbench.case import DTYPE_ALIASES

    return tuple(DTYPE_ALIASES.get(item, item) for item in _split(text))


def _words(text: str) -> tuple[str, ...]:
    return tuple(_split(text))


def _params(items: list[str]) -> dict[str, dict[str, tuple[Any, ...]]]:
    """`hilo.alpha=0.5,0.9` -> {hilo: {alpha: (0.5, 0.9)}}."""
    from vitbench.case import parse_scalar

    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    for item in items:
        target, equals, values = item.partition("=")
        name, dot, key = target.strip().partition(".")
        if not (equals and dot and name and key):
            raise BadInput(f"--param takes NAME.KEY=VALUES like hilo.alpha=0.5,0.9, got {item!r}")
        found.setdefault(name, {})[key] = tuple(parse_scalar(value) for value in _split(values))
    return found


def _bytes(text: str | None) -> int | None:
    """`8GiB`, `500MB`, `1000000`."""
    if text is None:
        return None
    units = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 1e3, "mb": 1e6, "gb": 1e9}
    number = text.rstrip("abikgmABIKGM ")
    unit = text[len(number) :].strip().lower()
    try:
        return int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise BadInput(f"an amount of memory is like 8GiB or 500MB, got {text!r}") from None


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


_AXIS = "Axes (comma-separated; each replaces the suite's)"
_TIME = "Precision"
_WHERE = "Machine and output"


@app.command()
def run(
    suite: Annotated[
        str,
        typer.Argument(
            help="A suite's name or a TOML file; `vitbench list --suites` shows them.",
            autocompletion=_complete_suites,
        ),
    ] = "quick",
    attention: Annotated[
        str | None,
        typer.Option(
            help="Mechanisms, or `all`.", autocompletion=_complete_names, rich_help_panel=_AXIS
        ),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Whole models, from --plugin files.", rich_help_panel=_AXIS)
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(help="Image pixels: 224 or 800x1280 (height x width).", rich_help_panel=_AXIS),
    ] = None,
    stride: Annotated[
        str | None, typer.Option(help="Pixels a token's side spans.", rich_help_panel=_AXIS)
    ] = None,
    dim: Annotated[str | None, typer.Option(help="Channels.", rich_help_panel=_AXIS)] = None,
    heads: Annotated[
        str | None, typer.Option(help="Attention heads.", rich_help_panel=_AXIS)
    ] = None,
    batch_size: Annotated[
        str | None, typer.Option(help="Images in one call.", rich_help_panel=_AXIS)
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16, float16, float64.", rich_help_panel=_AXIS),
    ] = None,
    impl: Annotated[str | None, typer.Option(help="eager, fused.", rich_help_panel=_AXIS)] = None,
    mode: Annotated[
        str | None, typer.Option(help="forward, forward_backward.", rich_help_panel=_AXIS)
    ] = None,
    compiled: Annotated[
        str | None,
        typer.Option("--compile", help="torch.compile: true, false.", rich_help_panel=_AXIS),
    ] = None,
    cuda_graph: Annotated[
        str | None, typer.Option(help="CUDA graph: true, false.", rich_help_panel=_AXIS)
    ] = None,
    cold: Annotated[
        str | None,
        typer.Option(help="Flush caches before each call: true, false.", rich_help_panel=_AXIS),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="Hyper-parameter, such as hilo.alpha=0.5,0.9; may be repeated.",
            autocompletion=_complete_params,
            rich_help_panel=_AXIS,
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="A file with a mechanism or backbone of yours.", rich_help_panel=_AXIS),
    ] = None,
    effort: Annotated[
        str | None, typer.Option(help="quick, default, thorough.", rich_help_panel=_TIME)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Fresh worker processes.", rich_help_panel=_TIME)
    ] = None,
    warmup_calls: Annotated[
        int | None, typer.Option(help="Least calls of warm-up.", rich_help_panel=_TIME)
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Least warm-up, seconds.", rich_help_panel=_TIME)
    ] = None,
    warmup_agree: Annotated[
        float | None,
        typer.Option(help="Two warm-up blocks agree within this share.", rich_help_panel=_TIME),
    ] = None,
    warmup_cap: Annotated[
        float | None, typer.Option(help="Most warm-up, seconds.", rich_help_panel=_TIME)
    ] = None,
    sample_time: Annotated[
        float | None, typer.Option(help="Least time of a sample, seconds.", rich_help_panel=_TIME)
    ] = None,
    min_samples: Annotated[
        int | None, typer.Option(help="Least samples a round.", rich_help_panel=_TIME)
    ] = None,
    min_time: Annotated[
        float | None, typer.Option(help="Least sampling a round, seconds.", rich_help_panel=_TIME)
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(help="Target: half-width of the 95% interval.", rich_help_panel=_TIME),
    ] = None,
    cap: Annotated[
        float | None, typer.Option(help="Most sampling a round, seconds.", rich_help_panel=_TIME)
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1.", rich_help_panel=_WHERE)
    ] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; all usable by default.", rich_help_panel=_WHERE)
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds for a case in a round.", rich_help_panel=_WHERE)
    ] = 300.0,
    memory_limit: Annotated[
        str | None, typer.Option(help="Of the worker on a CPU: 8GiB.", rich_help_panel=_WHERE)
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of the order of the cases.", rich_help_panel=_WHERE)
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The run folder; reports/DATE-... by default.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue the run in this folder; takes no other option.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its time; measure nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> int:
    """Measure a sweep and write its CSV files and charts."""
    if resume is not None:
        return _resume(resume, quiet=quiet)
    given = {
        "attention": (attention, _attentions),
        "backbone": (backbone, _words),
        "resolution": (resolution, _resolutions),
        "stride": (stride, _wholes("--stride")),
        "dim": (dim, _wholes("--dim")),
        "num_heads": (heads, _wholes("--heads")),
        "batch_size": (batch_size, _wholes("--batch-size")),
        "dtype": (dtype, _dtypes),
        "impl": (impl, _words),
        "mode": (mode, _words),
        "compiled": (compiled, _truths("--compile")),
        "cuda_graph": (cuda_graph, _truths("--cuda-graph")),
        "cold": (cold, _truths("--cold")),
    }
    axes = {name: parse(text) for name, (text, parse) in given.items() if text is not None}
    rule = {
        "warmup_calls": warmup_calls,
        "warmup_s": warmup,
        "warmup_agree": warmup_agree,
        "warmup_cap_s": warmup_cap,
        "sample_s": sample_time,
        "min_samples": min_samples,
        "min_s": min_time,
        "target_noise": noise,
        "cap_s": cap,
    }
    from vitbench import session

    plan = session.make_plan(
        suite,
        device=device,
        axes=axes,
        params=_params(param or []),
        plugins=tuple(plugin or ()),
        effort=effort,
        rounds=rounds,
        rule=rule,
        threads=threads,
        seed=seed,
        timeout_s=timeout,
        memory_limit_bytes=_bytes(memory_limit),
    )
    if dry_run:
        _print_plan(plan)
        return 0
    return _measure(plan, out, quiet=quiet)


def _console() -> Console:
    """Wide enough for the tables where there is no terminal to ask."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(width=180, highlight=False)


def _print_plan(plan: Plan) -> None:
    from vitbench import plan as plans
    from vitbench.render import tables, units

    console = _console()
    rows = [
        [case.subject, str(case.resolution), case.describe(), case.settings] for case in plan.cases
    ]
    console.print(tables.listing(("subject", "px", "case", "settings"), rows))
    least, most = plans.estimate_s(plan)
    console.print(
        f"\n{len(plan.cases)} cases on {plan.device}, {plan.rounds} rounds: "
        f"{units.duration(least)} to {units.duration(most)}, as noise decides"
    )


def _measure(plan: Plan, out: Path | None, *, quiet: bool) -> int:
    from vitbench import plan as plans
    from vitbench import session, store
    from vitbench.render import units
    from vitbench.render.progress import ProgressBar

    console = _console()
    folder = out or store.new_folder(REPORTS, plan.suite, plan.device)
    least, most = plans.estimate_s(plan)
    console.print(
        f"{plan.title}: {len(plan.cases)} cases on {plan.device}, {plan.rounds} rounds, "
        f"{units.duration(least)} to {units.duration(most)}"
    )
    with ProgressBar(console, quiet=quiet) as bar:
        try:
            done = session.measure(plan, folder, bar)
        except KeyboardInterrupt:
            return _interrupted(folder)
    return _report(done, folder, console)


def _resume(folder: Path, *, quiet: bool) -> int:
    from vitbench import session
    from vitbench.render.progress import ProgressBar

    console = _console()
    with ProgressBar(console, quiet=quiet) as bar:
        try:
            done = session.resume(folder, bar)
        except KeyboardInterrupt:
            return _interrupted(folder)
    return _report(done, folder, console)


def _interrupted(folder: Path) -> int:
    typer.echo(
        f"vitbench: interrupted; {folder} holds what there is; continue with "
        f"`vitbench run --resume {folder}`",
        err=True,
    )
    return 130


def _report(done: Run, folder: Path, console: Console) -> int:
    """The final table, what went wrong, and the paths."""
    from collections import Counter

    from vitbench import session, store, trust
    from vitbench.record import MEASURED
    from vitbench.render import tables

    records = done.records()
    console.print(tables.results(records))
    plots = session.draw(folder)
    statuses = Counter(str(record["status"]) for record in records)
    grades = Counter(str(record["trust"]) for record in records if record["trust"])
    failed = len(records) - statuses[MEASURED] - statuses["unsupported"]
    console.print(
        f"\n{statuses[MEASURED]} of {len(records)} cases measured on "
        f"{done.environment['device_name']}"
        + "".join(f", {n} {kind}" for kind, n in statuses.items() if kind != MEASURED)
        + (f"; trust {trust.summary(grades)}" if grades else "")
    )
    for path in (folder / store.RECORDS, folder / store.SAMPLES, *plots):
        console.print(str(path), style="cyan")
    return 1 if failed else 0


@app.command("list")
def list_(
    suites: Annotated[bool, typer.Option("--suites", help="List the suites instead.")] = False,
) -> None:
    """List the mechanisms, or the suites."""
    from vitbench import suite
    from vitbench.render import tables

    if suites:
        rows = [(name, title) for name, title in suite.describe().items()]
        _console().print(tables.listing(("suite", "what it sweeps"), rows))
        return
    mechanisms = []
    for name in attentions.names():
        outline = attentions.outline(attentions.path_of(name))
        impls = ", ".join(outline.impls or ("?",))
        mechanisms.append((name, impls, ", ".join(outline.keywords or ()), outline.summary))
    header = ("attention", "impls", "parameters", "what it is")
    _console().print(tables.listing(header, mechanisms))


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to; FOLDER/plots by default.")] = None,
) -> None:
    """Draw the charts of a run again."""
    from vitbench import session

    if not os.path.isdir(folder):
        raise BadInput(f"{folder} is not a run folder")
    for path in session.draw(folder, out):
        typer.echo(path)


@app.command()
def columns(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """Explain the columns of records.csv."""
    from vitbench.record import COLUMNS
    from vitbench.render import tables

    rows = [(column.name, column.unit, column.meaning) for column in COLUMNS]
    header = ("column", "unit", "meaning")
    if markdown:
        typer.echo(tables.markdown(header, [(f"`{name}`", *rest) for name, *rest in rows]))
    else:
        _console().print(tables.listing(header, rows))
