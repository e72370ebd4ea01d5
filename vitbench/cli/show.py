"""`vitbench list`, `plot`, `table`, `columns`: what there is and what was measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import attentions
from vitbench.cli import judge, terminal
from vitbench.cli.options import AllRecords, AsMarkdown, Filters, grouped, option
from vitbench.errors import BadInput
from vitbench.results.folder import RECORDS

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """A group of options: what is listed in place of the mechanisms."""

    panel = None

    suites: bool = option(False, "List the suites instead.", "--suites")
    backbones: bool = option(False, "List the whole models instead.", "--backbones")
    runtimes: bool = option(False, "List the runtimes instead.", "--runtimes")
    devices: bool = option(False, "List the kinds of devices instead.", "--devices")
    formats: bool = option(False, "List the formats of `vitbench export` instead.", "--formats")


@grouped
def list_(lists: Lists) -> None:
    """List the mechanisms, suites, whole models, runtimes, devices or formats."""
    chosen = [name for name, is_chosen in asdict(lists).items() if is_chosen]
    if len(chosen) > 1:
        raise BadInput(f"--{chosen[0]} and --{chosen[1]} are two lists: ask for one")
    rows: Sequence[Sequence[str | Text]]
    header, rows, note = LISTS[chosen[0]]() if chosen else _mechanisms()
    from vitbench.render.listing import listing

    terminal.console().print(listing(header, rows))
    if note:
        print(f"\n{note}")


# The header of a list, its rows, and a sentence below.
_List = tuple[Sequence[str], Sequence[Sequence[str]], str]


def _mechanisms() -> tuple[Sequence[str], Sequence[Sequence[str | Text]], str]:
    header = ("attention", "year", "size rule", "kernels", "cost", "what it is")
    note = (
        "cost: multiply-accumulates, N tokens, C channels; SDPA: scaled_dot_product_attention; "
        "`vitbench info NAME` says more"
    )
    return header, list(_grouped_rows()), note


def by_family() -> dict[str, list[str]]:
    """The mechanisms of each family that has any, in the order of FAMILIES; "" are those of files
    that name none, which come last."""
    groups = defaultdict(list)
    for name in attentions.names():
        outline = attentions.outline(attentions.path_of(name))
        groups[outline.words.get("family", "")].append(name)
    order = [*attentions.FAMILIES, *groups]
    return dict(sorted(groups.items(), key=lambda group: order.index(group[0])))


def _grouped_rows() -> Iterator[Sequence[str | Text]]:
    """Each family with what its mechanisms have in common, and the lines of these below."""
    from rich.text import Text

    for family, names in by_family().items():
        common = attentions.FAMILIES.get(family, "")
        yield Text(family or "no family", "bold"), "", "", "", "", Text(common, "bold")
        yield from (_facts(name) for name in names)


def _suites() -> _List:
    from vitbench.cases import suite

    return ("suite", "what it sweeps"), list(suite.describe().items()), ""


def _backbones() -> _List:
    from vitbench.subjects.backbones import LITV2, RIVALS

    models = [(name, "vitbench") for name in LITV2]
    models += [(name, f"timm:{timm_name}") for name, timm_name in RIVALS.items()]
    note = "and timm:NAME, module:factory; litv2_s[attention=NAME] has that mechanism in stage 3"
    return ("backbone", "implementation"), models, note


def _runtimes() -> _List:
    from vitbench import runtimes

    rows = [(name, runtimes.load(name).RULES.summary) for name in runtimes.names()]
    return ("runtime", "what it is"), rows, ""


def _devices() -> _List:
    from vitbench import devices

    rows = [(kind, devices.rules(kind).summary) for kind in devices.names()]
    return ("device", "what it is"), rows, ""


def _formats() -> _List:
    from vitbench.render import export

    rows = [(name, export.load(name).FORMAT.summary) for name in export.names()]
    return ("format", "what it is"), rows, ""


# The lists besides the mechanisms', by name.
LISTS: Mapping[str, Callable[[], _List]] = {
    "suites": _suites,
    "backbones": _backbones,
    "runtimes": _runtimes,
    "devices": _devices,
    "formats": _formats,
}


def _facts(name: str) -> tuple[str, ...]:
    """A mechanism's line, read without importing torch."""
    outline = attentions.outline(attentions.path_of(name))
    kernels = outline.words.get("kernels", "").replace("scaled_dot_product_attention", "SDPA")
    if "fused" not in (outline.impls or ()):
        kernels = "eager only"
    year, rule = str(outline.year or ""), outline.words.get("size_rule", "any")
    return f"  {name}", year, rule, kernels, outline.words.get("cost", ""), outline.summary


def plot(
    runs: AllRecords,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where to; several runs stand in the same charts there. By default RUN/plots, and "
            "NAME-plots for NAME.csv."
        ),
    ] = None,
) -> None:
    """Draw the charts of runs again."""
    from vitbench.render import charts

    if out is not None and len(runs) > 1:
        for path in charts.draw_together(runs, out):
            print(path)
        return
    for run in runs:
        for path in charts.draw(run, out):
            print(path)


@grouped
def table(
    runs: AllRecords,
    markdown: AsMarkdown = False,
    rows: Annotated[
        int | None,
        typer.Option(
            min=0, help="Most rows of a table; 0: all. By default 100; with --markdown all."
        ),
    ] = None,
    *,
    filters: Filters,
) -> None:
    """Print the tables of runs again, whole or the rows that options choose, and what those say
    across runtimes."""
    from vitbench.cases.row import select
    from vitbench.render import findings, tables

    most = rows if rows is not None else 0 if markdown else tables.MOST_ROWS
    read = [select(judge.records(run), filters) for run in runs]
    for run, records in zip(runs, read, strict=True):
        if len(runs) > 1:
            print(f"\n{run}:\n")
        shown = records[: most or None]
        if markdown:
            print(tables.results_markdown(shown))
        else:
            terminal.console().print(tables.results(shown))
        sentences = [] if markdown else tables.notes(records)
        if len(shown) < len(records):
            ways = f"options such as --runtime choose rows, --rows 0 shows all, {RECORDS} has them"
            sentences.append(f"{len(shown)} of {len(records)} rows are shown: {ways}")
        across = [] if markdown else findings.lines(records)
        sentences += ["", *across] if across else []
        for sentence in sentences:
            terminal.console().print(sentence, markup=False, soft_wrap=True)


def columns(markdown: AsMarkdown = False) -> None:
    """Explain the columns of records.csv."""
    from vitbench.render import tables
    from vitbench.results.columns import COLUMNS

    rows = [(column.name, column.unit, column.meaning) for column in COLUMNS]
    header = ("column", "unit", "meaning")
    if markdown:
        print(tables.markdown(header, [(f"`{name}`", *rest) for name, *rest in rows]))
    else:
        terminal.console().print(tables.listing(header, rows))
