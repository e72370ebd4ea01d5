"""Published figures, and ours beside them. They live in reports/published/; pure, no torch."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitbench.analysis.compare import IDENTITY
from vitbench.cases.case import Resolution
from vitbench.errors import BadInput, nearest, writing
from vitbench.results.csv import write_csv
from vitbench.results.journal import Run
from vitbench.results.outcome import MEASURED
from vitbench.results.record import Record, subject_of

_REPOSITORY = Path(__file__).parents[2] / "reports" / "published"
_INSTALLED = Path(__file__).parents[1] / "figures"  # where the wheel puts them

_Count = Literal["params", "macs", "macs_formula"]
Quantity = Literal[_Count, "throughput", "frames", "top1", "training_memory", "test_memory"]
_SCALES = {"1": 1.0, "M": 1e6, "G": 1e9, "images/s": 1.0}
# The column of records.csv that a quantity is compared with.
_COLUMNS: Mapping[str, str] = {
    "params": "params",
    "macs": "macs",
    "macs_formula": "macs_formula",
    "throughput": "throughput_img_s",
    "frames": "throughput_img_s",
}


class Figure(BaseModel):
    """One printed figure.

    name      as printed
    key       the mechanism or backbone
    settings  what a row of ours must have: hyper-parameters, and of the case grid=14x14, dim,
              num_heads, image_size=800x1280, batch_size, dtype
    quantity  what it is; macs_formula: what the authors' own formula gives
    value     as printed: its digits are its precision
    unit      "1", "M", "G", "images/s", "%", "GB"
    device    where a time or a memory was measured
    source    where it was published
    note      why ours may differ
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    key: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    settings: str
    quantity: Quantity
    value: Decimal = Field(ge=0, allow_inf_nan=False)
    unit: Literal["1", "M", "G", "images/s", "%", "GB"]
    device: str
    source: str = Field(pattern=r"^https://")
    note: str

    def printed(self, value: float) -> str:
        """A figure of ours in the unit and to the digits of this one."""
        exponent = self.value.as_tuple().exponent
        digits = max(0, -exponent) if isinstance(exponent, int) else 0
        return f"{value / _SCALES[self.unit]:.{digits}f}"

    def is_of(self, record: Record) -> bool:
        """Whether a row of ours has the mechanism and the settings of this figure."""
        if self.key not in (record["attention"], record["backbone"]):
            return False
        own, wanted = _words(record), set(self.settings.split())
        heads = {word for word in own if word.startswith("head=")}
        return record["mode"] == "forward" and heads <= wanted <= own


def _words(record: Record) -> set[str]:
    """The settings of a row, those of the case among them."""
    size = Resolution(int(str(record["image_height"])), int(str(record["image_width"])))
    case = {name: record[name] for name in ("dim", "num_heads", "batch_size", "dtype")} | {
        "grid": f"{record['grid_height']}x{record['grid_width']}",
        "image_size": size,
    }
    return {*(f"{name}={value}" for name, value in case.items()), *str(record["settings"]).split()}


def names() -> tuple[str, ...]:
    """The tables there are."""
    return tuple(sorted(path.stem for path in _folder().glob("*.csv")))


def _folder() -> Path:
    return _INSTALLED if _INSTALLED.is_dir() else _REPOSITORY


def read(name: str) -> list[Figure]:
    """The figures of a table, by its name or the path of a CSV file. Raises BadInput."""
    path = Path(name)
    if path.suffix != ".csv":
        if name not in names():
            raise BadInput(f"no published table is called {name!r}; {nearest(name, names())}")
        path = _folder() / f"{name}.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(_figures(path, csv.DictReader(file, strict=True)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{path} cannot be read: {reason}") from None


def _figures(path: Path, rows: csv.DictReader[str]) -> Iterable[Figure]:
    wanted = list(Figure.model_fields)
    if rows.fieldnames != wanted:
        raise BadInput(f"{path}: the columns must be {', '.join(wanted)}")
    for row in rows:
        try:
            yield Figure.model_validate(row)
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(str(part) for part in fault["loc"])
            raise BadInput(f"{path}, line {rows.line_num}, {where}: {fault['msg']}") from None


@dataclass(frozen=True, slots=True)
class PublishedComparison:
    """A figure of ours beside a published one.

    ours   printed to the same digits; "" where the case was not measured
    equal  to the last digit; None for what depends on the device
    """

    case: str
    figure: Figure
    ours: str
    equal: bool | None


_DEPENDS_ON_DEVICE = {"throughput", "frames", "training_memory", "test_memory"}
RATES = ("throughput", "frames")


def comparisons(records: Sequence[Record], figures: Sequence[Figure]) -> list[PublishedComparison]:
    """Ours beside the published, for every figure of a row of ours."""
    return [
        _compared(record, figure)
        for record in records
        for figure in figures
        if figure.quantity in _COLUMNS and figure.is_of(record)
    ]


def _compared(record: Record, figure: Figure) -> PublishedComparison:
    value = record[_COLUMNS[figure.quantity]]
    ours = "" if value is None else figure.printed(float(value))
    equal = None
    if ours and figure.quantity not in _DEPENDS_ON_DEVICE:
        equal = Decimal(ours) == figure.value
    return PublishedComparison(str(record["case"]), figure, ours, equal)


# What two cases must share for their times to compare.
_CONDITIONS = ("device", "dtype", *set(IDENTITY) - {"attention", "backbone", "impl", "settings"})


def relative_ours(records: Sequence[Record], reference: str) -> dict[str, float]:
    """Throughput over the reference's under the same conditions, by case.

    Times of two machines do not compare, but what a mechanism gains over another on each does.
    """
    timed = [record for record in records if record["status"] == MEASURED]
    references = [record for record in timed if subject_of(record) == reference]
    ratios = {}
    for record in timed:
        peers = [peer for peer in references if _conditions(peer) == _conditions(record)]
        # A mechanism with one implementation is compared with any of the reference's.
        peers = [peer for peer in peers if peer["impl"] == record["impl"]] or peers
        if peers:
            ratios[str(record["case"])] = _throughput(record) / _throughput(peers[0])
    return ratios


def _conditions(record: Record) -> tuple[object, ...]:
    """Of the settings what head it has."""
    heads = [word for word in str(record["settings"]).split() if word.startswith("head=")]
    return (*(record[name] for name in _CONDITIONS), *heads)


def _throughput(record: Record) -> float:
    return float(str(record["throughput_img_s"]))


def relative_published(figures: Sequence[Figure], reference: str) -> dict[Figure, float]:
    """Each published throughput over the reference's on the same device."""
    rates = [figure for figure in figures if figure.quantity in RATES]
    bases = {figure.device: figure.value for figure in reversed(rates) if figure.key == reference}
    return {f: float(f.value / bases[f.device]) for f in rates if f.device in bases}


def write(run: Run, folder: Path) -> list[Figure]:
    """The published figures that belong to a run; writes published.csv, ours beside them.

    Raises BadInput, StorageFull.
    """
    if run.plan.published is None:
        return []
    figures = read(run.plan.published)
    rows = [
        pair.figure.model_dump()
        | {"case": pair.case, "ours": pair.ours, "published": pair.figure.value}
        | {"equal": pair.equal}
        for pair in comparisons(run.records(), figures)
    ]
    columns = ("case", "name", "key", "settings", "quantity", "unit", "ours", "published", "equal")
    path = folder / "published.csv"
    with writing(path):
        write_csv(path, (*columns, "device", "source", "note"), rows)
    return figures
