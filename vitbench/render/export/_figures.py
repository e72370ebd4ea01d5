"""What exports say of a row beside its columns: published accuracy. And JSON as they write it."""

from __future__ import annotations

import json
from typing import Any

from vitbench.analysis.accuracy import published_top1
from vitbench.instruments import Column
from vitbench.results.record import Record

PUBLISHED = (
    Column(
        "published_top1_percent",
        "%",
        "top-1 on ImageNet-1k that others published for this model; a layer has none",
    ),
    Column("published_top1_checkpoint", "", "whose accuracy it is", "text"),
    Column("published_top1_source", "", "where it was published", "text"),
    Column(
        "published_top1_remark", "", "why it may not be the accuracy of the row's model", "text"
    ),
)


def published(record: Record) -> Record:
    """The columns of the published accuracy; empty where there is none."""
    top1 = published_top1(record)
    if top1 is None:
        return dict.fromkeys((column.name for column in PUBLISHED), None)
    values = (top1.percent, top1.checkpoint, top1.source, top1.remark)
    return dict(zip((column.name for column in PUBLISHED), values, strict=True))


def json_bytes(data: Any) -> bytes:
    """Indented, in ASCII: no tool that reads it must know the encoding."""
    return (json.dumps(data, indent=1, allow_nan=False) + "\n").encode()
