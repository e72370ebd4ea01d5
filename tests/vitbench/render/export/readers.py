"""What the tools read in an export: the programs that judge it are not ours."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema
import junitparser
import pyperf
from markdown_it import MarkdownIt
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from pyarrow import parquet
from pylatexenc.latexwalker import (
    LatexCharsNode,
    LatexGroupNode,
    LatexMacroNode,
    LatexMathNode,
    LatexWalker,
    get_default_latex_context_db,
)
from pylatexenc.macrospec import std_macro

# What each case is called there, and its latency in seconds; None where there is none.
Shown = list[tuple[str, float | None]]

_METRIC = {
    "type": "object",
    "required": ["value"],
    "properties": {name: {"type": "number"} for name in ("value", "lower_value", "upper_value")},
}
# https://bencher.dev/bmf.json, and what it lets through: nothing is beside the three.
BMF = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": _METRIC | {"additionalProperties": False},
    },
}
# The fields of a benchmark in benchmark-action/github-action-benchmark.
GITHUB = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "unit", "value"],
        "properties": {
            "name": {"type": "string"},
            "unit": {"type": "string"},
            "value": {"type": "number"},
            "range": {"type": "string"},
            "extra": {"type": "string"},
        },
        "additionalProperties": False,
    },
}


def _csv(files: Mapping[str, bytes]) -> Shown:
    rows = csv.DictReader(io.StringIO(files[""].decode(), newline=""), strict=True)
    return [(row["name"], _seconds(row["latency_s"])) for row in rows]


def _seconds(text: str) -> float | None:
    return float(text) if text else None


def _parquet(files: Mapping[str, bytes]) -> Shown:
    rows = parquet.read_table(io.BytesIO(files[""])).to_pylist()
    return [(row["name"], row["latency_s"]) for row in rows]


def _bmf(files: Mapping[str, bytes]) -> Shown:
    data = json.loads(files[""])
    jsonschema.validate(data, BMF)
    return [
        (name, measures["latency"]["value"] / 1e9 if "latency" in measures else None)
        for name, measures in data.items()
    ]


def _github(files: Mapping[str, bytes]) -> Shown:
    smaller = json.loads(files["-smaller"])
    for data in (smaller, json.loads(files["-bigger"])):
        jsonschema.validate(data, GITHUB)
    mark = ": latency"
    return [
        (entry["name"].removesuffix(mark), entry["value"] / 1e3)
        for entry in smaller
        if entry["name"].endswith(mark)
    ]


def _openmetrics(files: Mapping[str, bytes]) -> Shown:
    """The names are those of the subjects."""
    families = {f.name: f for f in text_string_to_metric_families(files[""].decode())}
    times = {s.labels["case"]: s.value for s in families["vitbench_latency_seconds"].samples}
    infos = families["vitbench_case"].samples
    return [(s.labels["subject"], times.get(s.labels["case"])) for s in infos]


def _pyperf(files: Mapping[str, bytes]) -> Shown:
    suite = pyperf.BenchmarkSuite.loads(files[""].decode())
    return [(one.get_name(), one.median()) for one in suite.get_benchmarks()]


def _junit(files: Mapping[str, bytes]) -> Shown:
    return [(test.name, None if test.result else test.time) for test in junit_tests(files[""])]


def junit_tests(data: bytes) -> list[junitparser.TestCase]:
    """The tests of the only suite."""
    (suite,) = junitparser.JUnitXml.fromstring(data)
    assert isinstance(suite, junitparser.TestSuite)
    return [test for test in suite if isinstance(test, junitparser.TestCase)]


def _markdown(files: Mapping[str, bytes]) -> Shown:
    """The names are those of the subjects."""
    rows = markdown_rows(files[""].decode())
    index = rows[0].index("ms a call")
    return [(row[0], float(row[index]) / 1e3 if row[index] else None) for row in rows[1:]]


def markdown_rows(text: str) -> list[list[str]]:
    """The cells of the table in a Markdown text, as a reader sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    rows: list[list[str]] = []
    for token, after in itertools.pairwise(tokens):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("td_open", "th_open"):
            children = after.children or []
            assert {c.type for c in children} <= {"text", "text_special", "html_inline"}
            assert all(c.content == "<!-- -->" for c in children if c.type == "html_inline")
            rows[-1].append("".join(c.content for c in children if c.type != "html_inline"))
    return rows


# What the escapes of a text make, and what the table is made of.
_SIGNS = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^"}
_SIGNS |= {"textless": "<", "textgreater": ">", "textbar": "|"} | {c: c for c in "{}$&#%_"}
_OWN = {"toprule", "midrule", "bottomrule", "textbf", "emph", "multicolumn"}
_OWN |= {"textsuperscript", "textdagger", "pm"}

_CONTEXT = get_default_latex_context_db()
_CONTEXT.add_context_category(
    "table",
    macros=[
        std_macro("symbol", False, 1),
        std_macro("textsuperscript", False, 1),
        std_macro("multicolumn", False, 3),
    ],
    prepend=True,
)


def _latex(files: Mapping[str, bytes]) -> Shown:
    """The names are those of the subjects."""
    rows = latex_rows(files[""].decode())
    index = rows[0].index("Latency (ms)")
    return [(row[0], _number(row[index])) for row in rows[1:]]


def _number(cell: str) -> float | None:
    return float(cell) / 1e3 if cell[:1].isdigit() else None


def latex_rows(text: str) -> list[list[str]]:
    """The cells of the only tabular of a LaTeX text, as a reader sees them."""
    walker = LatexWalker(text, latex_context=_CONTEXT, tolerant_parsing=False)
    nodes, _, _ = walker.get_latex_nodes()
    (table,) = [node for node in nodes if getattr(node, "environmentname", "") == "tabular"]
    rows: list[list[str]] = []
    cells: list[str] = []
    cell = ""
    for node in table.nodelist:
        kind = type(node).__name__
        if kind == "LatexSpecialsNode" and node.specials_chars == "&":
            cells, cell = [*cells, cell.strip()], ""
        elif isinstance(node, LatexMacroNode) and node.macroname == "\\":
            rows, cells, cell = [*rows, [*cells, cell.strip()]], [], ""
        else:
            cell += _shown(node)
    return rows


def _shown(node: Any) -> str:
    """Raises AssertionError for what neither the table nor an escape is made of."""
    if isinstance(node, LatexCharsNode):
        return str(node.chars)
    if isinstance(node, LatexGroupNode | LatexMathNode):
        return "".join(map(_shown, node.nodelist))
    assert isinstance(node, LatexMacroNode), node
    if node.macroname in _SIGNS:
        return _SIGNS[node.macroname] + node.macro_post_space
    arguments = node.nodeargd.argnlist if node.nodeargd else []
    texts = [_shown(argument) for argument in arguments if argument is not None]
    if node.macroname == "symbol":
        return chr(int(texts[0]))
    assert node.macroname in _OWN, node.macroname
    return texts[-1] if texts else ""


READERS: Mapping[str, Callable[[Mapping[str, bytes]], Shown]] = {
    "bmf": _bmf,
    "csv": _csv,
    "github-benchmark": _github,
    "junit": _junit,
    "latex": _latex,
    "markdown": _markdown,
    "openmetrics": _openmetrics,
    "parquet": _parquet,
    "pyperf": _pyperf,
}
