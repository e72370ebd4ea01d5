"""The options of `run` and `ab`: those of the axes, from their table, and those that both have.
And the arguments and options of more than one of the other commands."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_type_hints

import typer

from vitbench import devices
from vitbench.cases.axes import AXES, Value, text_of
from vitbench.cli import complete, parse
from vitbench.errors import BadInput

if TYPE_CHECKING:
    from vitbench.cases.limits import Limits

_AXES = "Axes (comma-separated; each replaces the suite's)"
MACHINE = "Machine and output"
PRECISION = "Precision"
# Options of earlier releases, and what does the same.
REPLACED = {"--compile": "--runtime compile", "--cuda-graph": "--runtime cuda-graph"}

SUITE = "A suite's name or a TOML file; `vitbench list --suites` shows the names."
CALIBRATION = "Images for backbones in int8: a folder of .png and .jpg; else scikit-image's."
DEVICE = f"{', '.join(devices.choices())}."

Records = Annotated[Path, typer.Argument(help="A run folder, or a CSV file of records.")]
AllRecords = Annotated[
    list[Path], typer.Argument(help="Run folders, or CSV files of records; one or more.")
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")]


def option(default: Any, text: str, *names: str, **settings: Any) -> Any:
    """A field of a group: an option with its default and its help."""
    declared = typer.Option(*names, help=_plain(text), **settings)
    return dataclasses.field(default=default, metadata={"option": declared})


def _plain(text: str) -> str:
    """Help whose square brackets are shown: rich takes them for markup."""
    return text.replace("[", r"\[")


class Axes(dict[str, tuple[Value, ...]]):
    """A group of options: the values of the axes that the user names."""

    panel: ClassVar[str] = _AXES
    defaults: ClassVar[Mapping[str, str | None]] = dict.fromkeys(AXES)

    @classmethod
    def of(cls, texts: Mapping[str, str | None]) -> Axes:
        """Raises BadInput."""
        named = {name: text for name, text in texts.items() if text is not None}
        return cls({name: AXES[name].parse(text) for name, text in named.items()})


class Filters(Axes):
    """A group of options: the values of axes by which rows are chosen."""

    panel = "Rows (comma-separated values; by default all rows)"
    defaults: ClassVar[Mapping[str, str | None]] = {
        name: None for name, axis in AXES.items() if axis.columns
    }


class OneOfEach(Axes):
    """A group of options: one value of each axis that a module to convert has."""

    panel = "The case (one value of each)"
    defaults: ClassVar[Mapping[str, str | None]] = {
        name: None if name in ("task", "resolution") else text_of(axis.default)
        for name, axis in AXES.items()
        if name not in ("attention", "backbone", "runtime", "cold", "mode")
    } | {"batch_size": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A group of options: what the axes cannot say."""

    panel = _AXES

    param: list[str] | None = option(
        None,
        "Hyper-parameter, such as hilo.alpha=0.5,0.9; may be repeated.",
        autocompletion=complete.params,
    )
    plugin: list[Path] | None = option(
        None, "A file with your own mechanism or backbone; may be repeated."
    )
    calibration: Path | None = option(None, CALIBRATION)

    def settings(self) -> dict[str, Any]:
        """For make_plan. Raises BadInput."""
        return {
            "params": parse.params(self.param or []),
            "plugins": tuple(self.plugin or ()),
            "calibration": self.calibration,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A group of options: where it runs, and what it leaves."""

    panel = MACHINE

    device: str = option("auto", DEVICE)
    threads: int | None = option(None, "CPU threads; by default all.")
    timeout: float = option(300.0, "Longest wait for a worker's answer, seconds.")
    seed: int = option(0, "Seed of the order of the cases.")
    out: Path | None = option(None, "Folder of the results; by default reports/DATE-...")
    dry_run: bool = option(False, "Print what would be measured, and stop.", "--dry-run")
    quiet: bool = option(False, "No progress bar.", "--quiet")

    def settings(self) -> dict[str, Any]:
        """For make_plan."""
        return {
            "device": self.device,
            "threads": self.threads,
            "timeout_s": self.timeout,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A group of options: what a case has to keep to, by its unfavourable end."""

    panel = "Limits"

    max_latency: str | None = option(None, "Of one call: 20ms, or '20ms p95'.")
    max_memory: str | None = option(None, "Peak memory of one call: 4GiB.")
    max_gmacs: float | None = option(None, "Multiply-accumulates of one image, in 1e9: 4.5.")
    max_params: str | None = option(None, "Parameters: 28M, or 28000000.")
    min_top1: float | None = option(None, "Published accuracy on ImageNet, in percent: 81.")

    def limits(self) -> Limits:
        """Raises BadInput."""
        from vitbench.cases.limits import Limits

        latency = None if self.max_latency is None else parse.latency(self.max_latency)
        memory = None if self.max_memory is None else parse.amount_of_memory(self.max_memory)
        params = None if self.max_params is None else parse.count(self.max_params)
        if memory is not None and memory <= 0:
            raise BadInput(f"--max-memory is over 0 bytes, got {self.max_memory!r}")
        if self.min_top1 is not None and not 0 < self.min_top1 <= 100:
            raise BadInput(f"--min-top1 is a percentage up to 100, got {self.min_top1:g}")
        if self.max_gmacs is not None and not 0 < self.max_gmacs < math.inf:
            raise BadInput(f"--max-gmacs is over 0, such as 4.5, got {self.max_gmacs:g}")
        seconds, percentile = latency or (None, None)
        macs = None if self.max_gmacs is None else 1e9 * self.max_gmacs
        return Limits(seconds, percentile, memory, self.min_top1, macs, params)


def grouped(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """The command as typer reads it: each parameter that is a group becomes the group's options."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, list[str]] = {}
    parameters = []
    for parameter in inspect.signature(command).parameters.values():
        options = list(_options(hints[parameter.name]))
        if options:
            groups[parameter.name] = [option.name for option in options]
        parameters += options or [
            parameter.replace(kind=parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        ]

    @functools.wraps(command)
    def flat(**values: Any) -> int | None:
        for name, options in groups.items():
            texts = {option: values.pop(option) for option in options}
            group = hints[name]
            values[name] = group.of(texts) if issubclass(group, Axes) else group(**texts)
        return command(**values)

    signature = inspect.Signature(parameters, return_annotation=int)
    flat.__signature__ = signature  # type: ignore[attr-defined] # inspect reads it
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


def _options(group: Any) -> Iterator[inspect.Parameter]:
    """The options of a group; none where it is no group."""
    if isinstance(group, type) and issubclass(group, Axes):
        for name, default in group.defaults.items():
            axis = AXES[name]
            declared = typer.Option(
                axis.option,
                help=_plain(axis.described),
                autocompletion=complete.values(axis),
                rich_help_panel=group.panel,
            )
            yield _parameter(name, default, Annotated[str | None, declared])
    elif is_dataclass(group):
        hints, panel = get_type_hints(group), vars(group)["panel"]
        for field in fields(group):
            declared = field.metadata["option"]
            declared.rich_help_panel = panel
            yield _parameter(field.name, field.default, Annotated[hints[field.name], declared])


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)
