"""The page: report.html.j2 filled with the runs, its style, its script and Vega-Lite's."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import vitbench
from vitbench.analysis import doctor
from vitbench.render import text
from vitbench.render.report import data
from vitbench.render.report.contents import Contents
from vitbench.render.report.sources import Source
from vitbench.results.spectra import SpectraOf

_FOLDER = Path(__file__).parent


def html(sources: Sequence[Source], told: Contents) -> str:
    """The page of these runs, complete in itself."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    template = environment.get_template("report.html.j2")
    return template.render(_context(sources, told))


def _visible(value: Any) -> Any:
    """Text of runs on one line; other values, and what is markup, as they are."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return text.visible(value) if is_text else value


def _code(sentence: str) -> Markup:
    """A sentence of ours, whose commands stand between backticks."""
    parts = text.visible(sentence).split("`")
    if len(parts) % 2 == 0:  # a name holds one
        return Markup.escape(text.visible(sentence))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else part
        for index, part in enumerate(parts)
    )


def _context(sources: Sequence[Source], told: Contents) -> dict[str, Any]:
    return {
        "told": told,
        "sources": sources,
        "version": vitbench.__version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machines": [_machine(source) for source in sources],
        "libraries": libraries(),
        "spectra": [pictures(one) for source in sources for one in source.spectra],
        # Files of ours and of Vega's, and JSON without any `<`.
        "style": Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
        "script": Markup((_FOLDER / "report.js").read_text(encoding="utf-8")),
        "vega": Markup(_vega()),
        "data": Markup(data.json_text(data.packed(sources))),
    }


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure in the page, as PNG in base64, with the rows of the table below it."""

    title: str
    caption: str
    png: str
    rows: Sequence[tuple[str, str, str]]


def pictures(one: SpectraOf) -> Picture:
    """The spectra of a subject: layer and heads, energy beside the mean, energy above half."""
    from vitbench.render import spectra, style  # matplotlib, which few pages need

    with style.styled():
        data = base64.b64encode(style.png(spectra.of_subject(one))).decode()
    rows = [
        (spectra.label(each), spectra.percent(each.varying), spectra.percent(each.high))
        for each in one.spectra
    ]
    return Picture(one.subject, spectra.caption(one), data, rows)


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which sets `vegaEmbed`."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace(
        "</script", "<\\/script"
    )


def libraries() -> list[tuple[str, str, str]]:
    """What stands in the page that others wrote: name, version, licence."""
    import vl_convert

    licence = "BSD-3-Clause"
    return [
        ("Vega", vl_convert.get_vega_version(), licence),
        ("Vega-Lite", vl_convert.get_vegalite_versions()[-1], licence),
        ("Vega-Embed", vl_convert.get_vega_embed_version(), licence),
    ]


def _machine(source: Source) -> list[tuple[str, str]]:
    """What is known of a run's machine and method, line by line."""
    records = source.records
    lines = [
        ("device", source.devices),
        ("torch", ", ".join(sorted({str(record["torch"] or "") for record in records}))),
    ]
    lines += _flat("", source.environment)
    lines.append(("int8", doctor.int8(source.environment)))
    lines += _flat("plan", source.plan)
    lines += _flat("ceilings", source.file.get("ceilings") or {})
    return [(name, words) for name, words in dict(lines).items() if words]


def _flat(name: str, value: Any) -> list[tuple[str, str]]:
    """A table of tables, line by line; of lists their items. What is not known is left out."""
    if isinstance(value, dict):
        return [
            line
            for key, inner in value.items()
            for line in _flat(f"{name} {key}".strip().replace("_", " "), inner)
        ]
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, float):
        value = f"{value:.6g}"
    return [] if value is None else [(name, str(value))]
