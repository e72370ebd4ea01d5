"""What the page's script reads: the rows of all runs, column by column, and their samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vitbench.analysis.accuracy import published_top1
from vitbench.cases import row
from vitbench.cases.axes import AXES
from vitbench.instruments import Column
from vitbench.render import labels, style
from vitbench.render.report.sources import Source
from vitbench.results.columns import COLUMN_NAMES, COLUMNS, FACT_COLUMNS
from vitbench.results.record import Record, Value, subject_of

# Samples that all cases of a page may have together. Of a case with more than its share every
# n-th is drawn; where the share is too small to show anything, none.
_MOST_SAMPLES, _LEAST_OF_A_CASE = 200_000, 20
# A sample is kept as a whole number of these parts of its case's latency.
SAMPLE_PARTS = 10_000
# Columns that a table shows at first: those of the settings besides, where they vary.
_FIGURES = {
    "throughput_img_s": "images/s",
    "noise": "±",
    "latency_s": "latency",
    "macs": "MACs",
    "params": "parameters",
    "peak_memory_bytes": "peak memory",
    "published_top1": "published top-1",
    "trust": "trust",
}
# What charts show: the column, its title, and whether more of it is better.
_METRICS = (
    ("throughput_img_s", "throughput", True),
    ("latency_s", "latency of one call", False),
    ("peak_memory_bytes", "peak memory", False),
    ("macs", "MACs of one image", False),
    ("params", "parameters", False),
    ("energy_j_img", "energy of one image", False),
    ("roofline_fraction", "share of the roofline", True),
    ("flops_rate", "arithmetic rate", True),
    ("device_latency_s", "the device's own time of one call", False),
    ("published_top1", "published top-1", True),
)
_INTERVALS = {
    "throughput_img_s": ("throughput_low_img_s", "throughput_high_img_s"),
    "latency_s": ("latency_low_s", "latency_high_s"),
}
# What a chart holds fixed, in the order in which a reader chooses it.
_CHOICES = ("run", "kind", "device_name", "runtime", "size", "dtype", "batch_size")
_OF_CASE = {column.name for column in row.COLUMNS}
_OF_MACHINE_FROM = "cpu_share"  # the first of the columns that tell the machine's state
_RATES = ("flops_rate", "roofline_fraction")
# What others published of a model. It is measured nowhere here.
_PUBLISHED = (
    Column("published_top1", "%", "published accuracy on ImageNet-1k; not measured here"),
    Column("published_checkpoint", "", "whose accuracy it is, and who published it", "text"),
)
# How a unit is shown: its name, and the factor to it.
_SHOWN = {"s": ("ms", 1e3), "bytes": ("MiB", 2.0**-20), "share": ("%", 100.0)}


def packed(sources: Sequence[Source]) -> dict[str, Any]:
    """The page's data, as JSON can hold it."""
    records = [record for source in sources for record in source.records]
    values: dict[str, Sequence[Value]] = {
        column.name: [record[column.name] for record in records] for column in COLUMNS
    } | _published(records)
    values = {name: own for name, own in values.items() if {*own} - {None, ""}}
    texts = _texts(sources, records)
    settings = [name for name in row.SETTINGS if name in values]
    choices = [*_CHOICES, *(name for name in settings if name not in _CHOICES), "task"]
    return {
        "rows": len(records),
        "names": COLUMN_NAMES,
        "figures": list(_FIGURES),
        "columns": [_described(c) for c in (*COLUMNS, *_PUBLISHED) if c.name in values],
        "values": {name: _column(own) for name, own in (values | texts).items()},
        "choices": {
            name: _title(name) for name in choices if len({*(values | texts).get(name, ())}) > 1
        },
        "metrics": [
            {"name": name, "title": title, "more": more, "ends": _INTERVALS.get(name)}
            for name, title, more in _METRICS
            if name in values
        ],
        "styles": {subject: _style(subject) for subject in map(subject_of, records)},
        "parts": SAMPLE_PARTS,
        **_samples(sources, len(records)),
    }


def json_text(data: Any) -> str:
    """JSON that may stand inside of a script element: no text of it ends the element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Lone surrogates, of names of files that are no text, cannot be written as UTF-8.
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _texts(sources: Sequence[Source], records: Sequence[Record]) -> dict[str, Sequence[str]]:
    """What a row is called, besides its columns."""
    subjects = [subject_of(record) for record in records]
    own = labels.own_settings(records)
    return {
        "run": [source.name for source in sources for _ in source.records],
        "kind": ["attention layers" if r["attention"] else "whole models" for r in records],
        "subject": subjects,
        "label": [f"{name} {words}".strip() for name, words in zip(subjects, own, strict=True)],
        "size": [labels.resolution(record) for record in records],
    }


def _published(records: Sequence[Record]) -> dict[str, Sequence[Value]]:
    """The columns of _PUBLISHED."""
    known = [published_top1(record) for record in records]
    sources = [
        "; ".join(filter(None, (one.checkpoint, one.source, one.remark))) if one else ""
        for one in known
    ]
    percents = [one.percent if one else None for one in known]
    return {"published_top1": percents, "published_checkpoint": sources}


def _title(name: str) -> str:
    plain = {"kind": "what", "device_name": "device", "size": "image, pixels"}
    return plain.get(name) or (AXES[name].title if name in AXES else name)


def _described(column: Column) -> dict[str, Any]:
    unit, scale = _SHOWN.get(column.unit, (column.unit, 1.0))
    names = [other.name for other in COLUMNS]
    if column in _PUBLISHED:
        group = "published"
    elif column.name in _OF_CASE:
        group = "case"
    elif column.name in FACT_COLUMNS:
        group = "counts, memory and checks"
    elif column.name in _RATES or names.index(column.name) < names.index(_OF_MACHINE_FROM):
        group = "time" if column.name not in ("status", "message") else "outcome"
    else:
        group = "outcome" if column.name.startswith("trust") else "machine"
    title = _FIGURES.get(column.name) or (AXES[column.name].title if column.name in AXES else "")
    return {
        "name": column.name,
        "title": title or column.name,
        "unit": unit,
        "scale": scale,
        "type": column.type,
        "meaning": column.meaning.replace("`", ""),
        "group": group,
    }


def _column(values: Sequence[Value]) -> Any:
    """The values of a column: one for all rows, or the different ones and where they stand, or all.

    The shorter form is a fraction of the longer one: most columns are settings.
    """
    distinct = list(dict.fromkeys((type(value), value) for value in values))
    if len(distinct) == 1:
        return {"same": values[0]}
    if 3 * len(distinct) < len(values):
        index = {key: number for number, key in enumerate(distinct)}
        return {
            "of": [value for _, value in distinct],
            "at": [index[type(value), value] for value in values],
        }
    return {"all": list(values)}


def _style(subject: str) -> dict[str, str]:
    drawn = style.style_of(subject)
    return {"colour": drawn.colour, "marker": drawn.marker, "line": drawn.line}


def _samples(sources: Sequence[Source], count: int) -> dict[str, Any]:
    """The samples of each row, round by round, in parts of its latency; how many of them are drawn
    where that is not all."""
    limit = _MOST_SAMPLES // max(1, count)
    packed: list[Any] = []
    thinned: dict[int, int] = {}
    for source in sources:
        for record in source.records:
            rounds = source.samples.get(str(record["case"]), [])
            total = sum(map(len, rounds))
            if not total or limit < _LEAST_OF_A_CASE or record["latency_s"] is None:
                packed.append(None)
                continue
            step = -(-total // limit)
            if step > 1:
                thinned[len(packed)] = step
            unit = float(str(record["latency_s"])) / SAMPLE_PARTS
            packed.append([[round(value / unit) for value in own[::step]] for own in rounds])
    return {"samples": packed, "every": thinned, "without_samples": limit < _LEAST_OF_A_CASE}
