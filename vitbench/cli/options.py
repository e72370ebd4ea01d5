"""The options of `run` and `ab`: those of the axes, from their table, and those that both have."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

import typer

from vitbench.cases.axes import AXES, Axis, Value
from vitbench.cli import complete, parse

_AXES = "Axes (comma-separated; each replaces the suite's)"
MACHINE = "Machine and output"
# Options of earlier releases, and what does the same.
REPLACED = {"--compile": "--runtime compile", "--cuda-graph": "--runtime cuda-graph"}

SUITE = "A suite's name or a TOML file; `vitbench list --suites` shows the names."


class Axes(dict[str, tuple[Value, ...]]):
    """A group of options: the values of the axes that the user names."""

    @classmethod
    def of(cls, texts: Mapping[str, str | None]) -> Axes:
        """Raises BadInput."""
        named = {name: text for name, text in texts.items() if text is not None}
        return cls({name: AXES[name].parse(text) for name, text in named.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A group of options: what the axes cannot say."""

    panel: ClassVar[str] = _AXES

    param: Annotated[
        list[str] | None,
        typer.Option(
            help="Hyper-parameter, such as hilo.alpha=0.5,0.9; may be repeated.",
            autocompletion=complete.params,
        ),
    ] = None
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="A file with your own mechanism or backbone; may be repeated."),
    ] = None

    def settings(self) -> dict[str, Any]:
        """For make_plan. Raises BadInput."""
        return {"params": parse.params(self.param or []), "plugins": tuple(self.plugin or ())}


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A group of options: where it runs, and what it leaves."""

    panel: ClassVar[str] = MACHINE

    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")] = "auto"
    threads: Annotated[int | None, typer.Option(help="CPU threads; by default all.")] = None
    timeout: Annotated[float, typer.Option(help="Longest wait for a worker's answer, seconds.")] = (
        300.0
    )
    seed: Annotated[int, typer.Option(help="Seed of the order of the cases.")] = 0
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; by default reports/DATE-...")
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be measured, and stop.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False

    def settings(self) -> dict[str, Any]:
        """For make_plan."""
        return {
            "device": self.device,
            "threads": self.threads,
            "timeout_s": self.timeout,
            "seed": self.seed,
        }


def grouped(command: Callable[..., int]) -> Callable[..., int]:
    """The command as typer reads it: each parameter that is a group becomes the group's options."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, list[str]] = {}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        options = _options(hints[parameter.name])
        if options:
            groups[parameter.name] = [option.name for option in options]
        parameters += options or [parameter.replace(annotation=hints[parameter.name])]

    @functools.wraps(command)
    def flat(**values: Any) -> int:
        for name, options in groups.items():
            texts = {option: values.pop(option) for option in options}
            group = hints[name]
            values[name] = group.of(texts) if group is Axes else group(**texts)
        return command(**values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    flat.__signature__ = inspect.Signature(  # type: ignore[attr-defined] # inspect reads it
        [parameter.replace(kind=keyword) for parameter in parameters], return_annotation=int
    )
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _options(group: Any) -> list[inspect.Parameter]:
    """The options of a group; none where it is no group."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    if group is Axes:
        return [
            inspect.Parameter(name, keyword, default=None, annotation=_axis_option(axis))
            for name, axis in AXES.items()
        ]
    if not is_dataclass(group):
        return []
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        if panel := getattr(group, "panel", None):
            (option,) = hints[field.name].__metadata__
            option.rich_help_panel = panel
    return [
        inspect.Parameter(field.name, keyword, default=field.default, annotation=hints[field.name])
        for field in fields(group)
    ]


def _axis_option(axis: Axis) -> Any:
    option = typer.Option(
        axis.option,
        help=axis.described.replace("[", r"\["),  # rich takes it for markup
        autocompletion=complete.values(axis),
        rich_help_panel=_AXES,
    )
    return Annotated[str | None, option]
