"""The parts of the pages that follow from the committed runs across runtimes, where they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from vitbench.analysis import stats
from vitbench.analysis.across_runtimes import BASE_DTYPE, TRUSTED
from vitbench.render import findings, gains, tables, units
from vitbench.results import frame
from vitbench.results.folder import RECORDS
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record, subject_of
from vitbench.runtimes import DEFAULT

_ABSENT = "The runs are not in this checkout: the commands above make them."


def machine_of(folder: Path) -> str:
    """The machine of a run."""
    content = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    environment = content["environment"]
    return f"{environment['device_name']}, torch {environment['torch']['version']}"


def chart(folder: Path) -> str:
    """The heat map in float32, with what it shows in a sentence; nothing where there is no run."""
    maps = _plots(folder, "runtimes-")
    if not maps:
        return ""
    place = f"reports/{folder.name}/plots/{maps[0].name}"
    image = f"![Speed of each mechanism in each runtime over eager PyTorch]({place})"
    told = [
        f"In its fastest runtime a mechanism is as many times as fast as in eager {BASE_DTYPE} at "
        f"{table.title}, in the geometric mean: {_means(table)}."
        for table in gains.tables(frame.records(frame.read(folder)))[:1]
    ]
    link = f"The machine is {machine_of(folder)} ([all of it](docs/cpu-runtimes.md))."
    return f"{image}\n\n{' '.join([*told, link])}"


def _means(table: gains.Table) -> str:
    return ", ".join(f"{mean:.2f} in {dtype}" for dtype, mean in table.means.items())


def report(*folders: Path) -> str:
    """The charts, the gains, the findings and what was not measured, of each run that is there."""
    parts = [part for folder in folders if (folder / RECORDS).exists() for part in _run(folder)]
    return "\n\n".join(parts) if parts else _ABSENT


def _run(folder: Path) -> Iterator[str]:
    records = frame.records(frame.read(folder))
    title = "Mechanisms" if records[0]["attention"] else "Whole models"
    yield f"## {title}"
    yield f"Measured on {machine_of(folder)}."
    for start, what in (("runtimes-", "Speed over eager"), ("runtime-ranks-", "Rank by speed")):
        for path in _plots(folder, start):
            yield f"![{what}](../reports/{folder.name}/plots/{path.name})"
    yield (
        "*times*: over eager float32. *of the limit*: the time that the MACs would take at the "
        "measured ceiling of float32, over the latency of the fastest runtime. *beside the MACs*: "
        "operators that count none, the most frequent first; with the moving of tensors they fill "
        "the rest."
    )
    for table in gains.tables(records):
        yield f"At {table.title}, geometric mean of the gains {_means(table)}:"
        yield tables.markdown(table.header, table.rows)
    if lines := findings.lines(records):
        yield "\n".join(f"- {line}" for line in lines)
    lost = [row for row in records if row["status"] != MEASURED]
    yield f"{len(records) - len(lost)} of {len(records)} cases were measured."
    if lost:
        yield "\n".join(map(_loss, lost))


def _loss(row: Record) -> str:
    where = f"{row['runtime']}, {row['dtype']}, {row['image_height']} px"
    return f"- {subject_of(row)} in {where}: {row['status']}: {row['message']}"


def _plots(folder: Path, start: str) -> list[Path]:
    """Those whose name starts so, float32 first."""
    found = sorted((folder / "plots").glob(f"{start}*.png"))
    return sorted(found, key=lambda path: BASE_DTYPE not in path.name and "int8" in path.name)


def speeds(folder: Path) -> str:
    """Throughput of every mechanism at every size of a run of two runtimes, eager and another, the
    fastest on the whole first; figures of trust C and D are in brackets."""
    if not (folder / RECORDS).exists():
        return _ABSENT
    rows = frame.records(frame.read(folder))
    sizes = sorted({int(str(row["image_height"])) for row in rows})
    found = {
        (str(row["attention"]), int(str(row["image_height"])), str(row["runtime"])): row
        for row in rows
    }
    (other,) = {str(row["runtime"]) for row in rows} - {DEFAULT}

    def rates(name: str) -> list[float]:
        own = (found[name, size, other] for size in sizes)
        return [float(str(row["throughput_img_s"])) for row in own if row["status"] == MEASURED]

    names = sorted({name for name, _, _ in found}, key=lambda name: -_mean(rates(name)))
    header = ["mechanism", *(f"{size} px, {how}" for size in sizes for how in (DEFAULT, other))]
    table = [
        [
            f"`{name}`",
            *(_rate(found[name, size, how]) for size in sizes for how in (DEFAULT, other)),
        ]
        for name in names
    ]
    return (
        f"Images a second of one layer on {machine_of(folder)}; stride 16, 384 channels, 12 heads, "
        f"batch {rows[0]['batch_size']}, float32. In brackets: trust C or D.\n\n"
        f"{tables.markdown(header, table, ['---'] + ['---:'] * (len(header) - 1))}"
    )


def _mean(rates: list[float]) -> float:
    return stats.geometric_mean(rates) if rates else 0.0


def _rate(row: Record) -> str:
    if row["status"] != MEASURED:
        return str(row["status"])
    text = units.significant(float(str(row["throughput_img_s"])))
    return text if str(row["trust"]) in TRUSTED else f"({text})"
