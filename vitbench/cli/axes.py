"""The options that choose what is measured, for every command that measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from vitbench.cli import complete, parse

_PANEL = "Axes (comma-separated; each replaces the suite's)"

Suite = Annotated[
    str,
    typer.Argument(
        help="A suite's name or a TOML file; `vitbench list --suites` shows them.",
        autocompletion=complete.suites,
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        help="Mechanisms, or `all`.", autocompletion=complete.mechanisms, rich_help_panel=_PANEL
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        help="Whole models: litv2_s, 'litv2_s[attention=sra]', resnet50, timm:NAME, "
        "module:factory, or a plugin's.",
        autocompletion=complete.backbones,
        rich_help_panel=_PANEL,
    ),
]
Task = Annotated[
    str | None,
    typer.Option(help="Of the backbones: classify, detect, segment.", rich_help_panel=_PANEL),
]
Resolution = Annotated[
    str | None,
    typer.Option(help="Image pixels: 224 or 800x1280 (height x width).", rich_help_panel=_PANEL),
]
Stride = Annotated[
    str | None, typer.Option(help="Pixels a token's side spans.", rich_help_panel=_PANEL)
]
Dim = Annotated[str | None, typer.Option(help="Channels.", rich_help_panel=_PANEL)]
Heads = Annotated[str | None, typer.Option(help="Attention heads.", rich_help_panel=_PANEL)]
BatchSize = Annotated[str | None, typer.Option(help="Images in one call.", rich_help_panel=_PANEL)]
Dtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16, float16, float64.", rich_help_panel=_PANEL)
]
Impl = Annotated[str | None, typer.Option(help="eager, fused.", rich_help_panel=_PANEL)]
Mode = Annotated[
    str | None, typer.Option(help="forward, forward_backward.", rich_help_panel=_PANEL)
]
Runtime = Annotated[
    str | None,
    typer.Option(help="How it is run: eager, compile, cuda-graph.", rich_help_panel=_PANEL),
]
Cold = Annotated[
    str | None,
    typer.Option(help="Flush caches before each call: true, false.", rich_help_panel=_PANEL),
]
Param = Annotated[
    list[str] | None,
    typer.Option(
        help="Hyper-parameter, such as hilo.alpha=0.5,0.9; may be repeated.",
        autocompletion=complete.params,
        rich_help_panel=_PANEL,
    ),
]
Plugin = Annotated[
    list[Path] | None,
    typer.Option(help="A file with a mechanism or backbone of yours.", rich_help_panel=_PANEL),
]

# Options of earlier releases, and what does the same.
REPLACED = {"--compile": "--runtime compile", "--cuda-graph": "--runtime cuda-graph"}

_PARSERS: dict[str, Callable[[str], tuple[Any, ...]]] = {
    "attention": parse.mechanisms,
    "backbone": parse.backbones,
    "task": parse.words,
    "resolution": parse.resolutions,
    "stride": parse.wholes("--stride"),
    "dim": parse.wholes("--dim"),
    "num_heads": parse.wholes("--heads"),
    "batch_size": parse.wholes("--batch-size"),
    "dtype": parse.dtypes,
    "impl": parse.words,
    "mode": parse.words,
    "runtime": parse.words,
    "cold": parse.truths("--cold"),
}


def given(**texts: str | None) -> dict[str, tuple[Any, ...]]:
    """The axes that were named, parsed; the keys are fields of case.Sweep. Raises BadInput."""
    return {name: _PARSERS[name](text) for name, text in texts.items() if text is not None}
