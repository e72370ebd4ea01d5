"""`vitbench info NAME`: all that is known of one mechanism."""

from __future__ import annotations

import json as jsons
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from vitbench.cli import complete, parse, terminal


def info(
    name: Annotated[str, typer.Argument(help="A mechanism.", autocompletion=complete.mechanism)],
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
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what a mechanism is: paper, equation, cost, settings, traps, and counts at a size."""
    from vitbench.engine import session

    told = session.describe(
        name,
        resolution=parse.one(resolution, parse.resolutions),
        stride=stride,
        dim=dim,
        num_heads=heads,
        params=parse.own_params(param or []),
        plugins=tuple(plugin or ()),
    )
    if json:
        typer.echo(jsons.dumps(told, indent=2, ensure_ascii=False))
        return
    from vitbench.render import tables

    console = terminal.console()
    console.print(f"[bold]{told['name']}[/bold]  ", tables.plain(told["summary"]), "\n", sep="")
    console.print(tables.plan(_rows(told)))


def _rows(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    if told["paper"] is not None:
        paper = told["paper"]
        rows += [
            ("paper", f"{paper['title']} ({paper['venue']})"),
            ("link", paper["link"]),
            ("code", paper["code"]),
        ]
    rows += [(key, told[key]) for key in ("equation", "cost") if told[key]]
    rows += [
        ("size rule", _SIZE_RULES[told["size_rule"]]),
        ("impls", ", ".join(told["impls"])),
        ("kernels", told["kernels"]),
        ("parameters", _settings(told["parameters"])),
    ]
    rows += [(f"at stride {key}", _settings(given)) for key, given in told["settings"].items()]
    rows += [("trap", trap) for trap in told["traps"]]
    return [(key, value) for key, value in [*rows, *_counts(told)] if value]


_SIZE_RULES = {
    "any": "any size fits",
    "pad": "pads to a size that fits",
    "floor": "keys see no remainder of the division",
    "divisible": "only sizes that divide",
    "fixed": "fixed to the grid that it was built for",
}


def _counts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Parameters and MACs, or why there are none."""
    from vitbench.render import units

    at, counts = told["at"], told["counts"]
    height, width = at["grid"]
    where = (
        f"{at['resolution']} px, stride {at['stride']}: {height} x {width} tokens, "
        f"dim {at['dim']}, {at['num_heads']} heads  {_settings(at['params'])}"
    )
    if counts is None:
        return [("here", where), ("unsupported", told["unsupported"])]
    rows = [("here", where), ("params", f"{units.si(counts['params'])} ({counts['params']:,})")]
    macs = counts["macs"]
    rows.append(("MACs", "no closed form" if macs is None else f"{units.si(macs)} ({macs:,})"))
    if counts["computed_grid"] != at["grid"]:
        rows.append(("padded to", " x ".join(str(side) for side in counts["computed_grid"])))
    return rows


def _settings(given: Mapping[str, Any]) -> str:
    from vitbench.cases.scalars import format_scalar

    return " ".join(f"{key}={format_scalar(value)}" for key, value in given.items())
