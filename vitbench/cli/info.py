"""`vitbench info NAME`: all that is known of one mechanism."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import attentions
from vitbench.cases.case import Resolution
from vitbench.cases.sweep import Question
from vitbench.cli import complete, parse, terminal
from vitbench.cli.options import AsJson


def info(
    name: Annotated[
        str,
        typer.Argument(
            help="A mechanism, a plugin's name, or a class: timm:layers.Attention2d.",
            autocompletion=complete.mechanism,
        ),
    ],
    resolution: Annotated[str, typer.Option(help="Image pixels: 224 or 800x1280.")] = "224",
    stride: Annotated[int, typer.Option(help="Pixels a token's side spans.")] = 16,
    dim: Annotated[int, typer.Option(help="Channels.")] = 384,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 12,
    param: Annotated[
        list[str] | None, typer.Option(help="Hyper-parameter, alpha=0.5; may be repeated.")
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="A file with a mechanism of yours.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Say what a mechanism is: paper, equation, cost, settings, traps, and counts at a size."""
    from vitbench.engine.inquiry import describe
    from vitbench.engine.planning import plugin_files

    question = Question(
        name=name,
        resolution=Resolution.parse(resolution),
        stride=stride,
        dim=dim,
        num_heads=heads,
        params=parse.own_params(param or []),
    )
    facts = describe(question, plugin_files(tuple(plugin or ())))
    if json:
        terminal.echo_json(facts)
        return
    from rich.text import Text

    from vitbench.render import tables

    console = terminal.console()
    console.print(Text(facts["name"], "bold"), "  ", facts["summary"], "\n", sep="")
    console.print(tables.plan(_rows(facts)))


def _rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    common = attentions.FAMILIES.get(facts["family"])
    rows = [("family", f"{facts['family']}: {common}")] if common else []
    rows += [("layout", f"{facts['layout']}: {attentions.LAYOUTS[facts['layout']]}")]
    if facts["paper"] is not None:
        paper = facts["paper"]
        rows += [("paper", f"{paper['title']} ({paper['venue']})")]
        rows += [(key, paper[key]) for key in ("link", "code")]
    rows += [(key, facts[key]) for key in ("equation", "cost") if facts[key]]
    rows += [
        ("size rule", _SIZE_RULES.get(facts["size_rule"], "")),
        ("impls", ", ".join(facts["impls"])),
        ("kernels", facts["kernels"]),
        ("parameters", _settings(facts["parameters"])),
    ]
    rows += [(f"at stride {key}", _settings(values)) for key, values in facts["settings"].items()]
    rows += [("trap", trap) for trap in facts["traps"]]
    return [(key, value) for key, value in [*rows, *_counts(facts)] if value]


_SIZE_RULES = {
    "any": "any size fits",
    "pad": "pads to a size that fits",
    "floor": "keys see no remainder of the division",
    "divisible": "only sizes that divide",
    "fixed": "fixed to the grid that it was built for",
}


def _counts(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Parameters and MACs, or why there are none."""
    from vitbench.render import units

    at, counts = facts["at"], facts["counts"]
    height, width = at["grid"]
    where = (
        f"{at['resolution']} px, stride {at['stride']}: {height} x {width} tokens, "
        f"dim {at['dim']}, {at['num_heads']} heads  {_settings(at['params'])}"
    )
    if counts is None:
        return [("here", where), ("unsupported", facts["unsupported"])]
    rows = [("here", where), ("params", f"{units.si(counts['params'])} ({counts['params']:,})")]
    macs = counts["macs"]
    rows.append(("MACs", "no closed form" if macs is None else f"{units.si(macs)} ({macs:,})"))
    if counts["computed_grid"] != at["grid"]:
        rows.append(("padded to", " x ".join(str(side) for side in counts["computed_grid"])))
    return rows


def _settings(values: Mapping[str, Any]) -> str:
    from vitbench.cases.scalars import format_scalar

    return " ".join(f"{key}={format_scalar(value)}" for key, value in values.items())
