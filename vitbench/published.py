"""Published figures, and ours beside them. They live in reports/published/; pure, no torch."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vitbench.errors import BadInput, nearest
from vitbench.record import MEASURED, Record

_REPOSITORY = Path(__file__).parents[1] / "reports" / "published"
_INSTALLED = Path(__file__).parent / "figures"  # where the wheel puts them

Quantity = Literal[
    "params",
    "macs",
    "macs_formula",
    "throughput",
    "frames",
    "top1",
    "training_memory",
    "test_memory",
]
_SCALES = {"1": 1.0, "M": 1e6, "G": 1e9, "images/s": 1.0}
# The column of records.csv that a quantity is compared with.
_COLUMNS: Mapping[str, str] = {"params": "params", "macs": "macs", "throughput": "throughput_img_s"}


class Figure(BaseModel):
    """One printed figure.

    name      as printed
    key       the mechanism or backbone
    settings  hyper-parameters as in records.csv: those that the row of ours must have
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
        places = max(0, -exponent) if isinstance(exponent, int) else 0
        return f"{value / _SCALES[self.unit]:.{places}f}"

    def is_of(self, record: Mapping[str, object]) -> bool:
        """Whether a row of ours has the mechanism and the settings of this figure."""
        wanted, has = set(self.settings.split()), set(str(record["settings"]).split())
        return self.key in (record["attention"], record["backbone"]) and wanted <= has


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
class Beside:
    """A figure of ours beside a published one.

    ours   printed to the same digits; "" where the case was not measured
    equal  to the last digit; None for what depends on the device
    """

    case: str
    figure: Figure
    ours: str
    equal: bool | None

    @property
    def note(self) -> str:
        """Why they differ, or may."""
        return self.figure.note


_DEPENDS_ON_DEVICE = {"throughput", "frames", "training_memory", "test_memory"}


def beside(records: Sequence[Record], figures: Sequence[Figure]) -> list[Beside]:
    """Ours beside the published, for every figure of a row of ours."""
    return [
        _beside(record, figure)
        for record in records
        for figure in figures
        if figure.is_of(record) and figure.quantity in _COLUMNS
    ]


def _beside(record: Record, figure: Figure) -> Beside:
    value = record[_COLUMNS[figure.quantity]]
    ours = "" if value is None else figure.printed(float(value))
    equal = None
    if ours and figure.quantity not in _DEPENDS_ON_DEVICE:
        equal = Decimal(ours) == figure.value
    return Beside(str(record["case"]), figure, ours, equal)


def relative(
    records: Sequence[Record], figures: Sequence[Figure], anchor: str
) -> dict[tuple[str, str], float]:
    """Throughput over the anchor's, by (case or published name, device): ours under "ours".

    Times of two machines do not compare, but what a mechanism gains over another on each does.
    """
    found: dict[tuple[str, str], float] = {}
    ours = {
        str(record["case"]): float(str(record["throughput_img_s"]))
        for record in records
        if record["status"] == MEASURED
    }
    bases = [
        ours[str(record["case"])]
        for record in records
        if anchor in (record["attention"], record["backbone"]) and str(record["case"]) in ours
    ]
    if bases:
        found |= {(case, "ours"): value / bases[0] for case, value in ours.items()}
    for figure in figures:
        base = [f.value for f in figures if f.key == anchor and _same_measure(f, figure)]
        if figure.quantity == "throughput" and base:
            found[figure.name, figure.device] = float(figure.value / base[0])
    return found


def _same_measure(one: Figure, other: Figure) -> bool:
    return (one.quantity, one.device) == (other.quantity, other.device)
