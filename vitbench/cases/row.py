"""A case as columns of a CSV row, as a name, and as options of the command line. No torch."""

from __future__ import annotations

import functools
import itertools
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from vitbench import devices
from vitbench.cases.axes import ALL, AXES, text_of
from vitbench.cases.case import Case, Resolution, split_settings
from vitbench.cases.scalars import parse_scalar
from vitbench.errors import BadInput, nearest
from vitbench.instruments import Column

Cell = str | int | float | bool | None
Row = Mapping[str, Any]
R = TypeVar("R", bound=Row)

COLUMNS = (
    Column(
        "case", "", "stable id of the case: a hash of the columns up to `settings`", "text", True
    ),
    *(column for axis in AXES.values() for column in axis.columns),
    Column("device", "", "`cpu`, `cuda` or `cuda:1`", "text", True),
    Column("settings", "", "hyper-parameters of the mechanism or backbone", "text", True),
)
# Of the settings of one row.
_MOST_READINGS = 256
# The axes with a column of their own, apart from the subjects.
SETTINGS = tuple(
    name for name, axis in AXES.items() if axis.meaning and name not in ("attention", "backbone")
)
# How a case is run, and what rows share of which one asks for the best way.
HOW = tuple(name for name, axis in AXES.items() if axis.is_how)
CONDITIONS = tuple(name for name in SETTINGS if name not in HOW)
_KINDS: Mapping[str, Callable[..., Any]] = {"text": str, "int": int, "bool": bool}
_FIELDS = Case.__dataclass_fields__
# Of a row what a case has as a field, with its type, and what it has besides, with its default.
_OF_CASE = [(column.name, _KINDS[column.type]) for column in COLUMNS if column.name in _FIELDS]
_OF_MORE = {
    name: axis.default for name, axis in AXES.items() if name not in _FIELDS and axis.meaning
}
_BETWEEN_WORDS = re.compile(r" (?=[^ =]+=)")
# What every name says, and in which order; the other axes follow where they are not the default.
_ALWAYS = ("attention", "backbone", "resolution", "dtype", "batch_size")
_NAMED = [
    (name, axis, axis.default)
    for name, axis in AXES.items()
    if axis.meaning and name not in _ALWAYS
]


def row_of(case: Case) -> dict[str, Cell]:
    """The columns of a case; None for what a backbone does not have."""
    cells: dict[str, Cell] = {column.name: getattr(case, column.name, None) for column in COLUMNS}
    kind, more = "layer" if case.attention else "backbone", dict(case.more)
    for name, axis in AXES.items():
        if name not in _FIELDS and axis.meaning:
            value: Any = more.get(name, axis.default)
            cells[name] = value if axis.of in (kind, "both") else None
    counts = {column.name for column in COLUMNS if column.type == "int"}
    return cells | {name: cells[name] or None for name in counts} | {"case": case.id}


def case_of(row: Row) -> Case:
    """The inverse of `row_of`. Raises ValueError where the row's id is another case's."""
    for case in cases_of(row):
        if case.id == row["case"]:
            return case
    raise ValueError(f"its columns are of another case than its id, {row['case']}")


def cases_of(row: Row) -> Iterator[Case]:
    """What the columns of a row may mean, apart from its id, the likeliest first: in `kernel=3` of
    the column `settings`, 3 is a number, or a word."""
    fields = {name: kind(row[name] or kind()) for name, kind in _OF_CASE}
    more = {
        name: row[name]
        for name, default in _OF_MORE.items()
        if row[name] not in (None, "", default)
    }
    for settings in _readings(str(row["settings"] or ""), fields["backbone"]):
        yield Case(**fields, **settings, more=tuple(more.items()))


@functools.lru_cache(maxsize=1000)
def _readings(text: str, backbone: str) -> Sequence[Mapping[str, Any]]:
    """The fields of a case that the column `settings` may mean. Rows share most of their texts."""
    # A word that is the value of a setting may hold spaces.
    words = [word.partition("=") for word in _BETWEEN_WORDS.split(text) if word]
    values = itertools.product(*(dict.fromkeys((parse_scalar(v), v)) for _, _, v in words))
    return [
        split_settings(
            {name: value for (name, _, _), value in zip(words, own, strict=True)}, backbone
        )
        for own in itertools.islice(values, _MOST_READINGS)
    ]


def name_of(case: Case | Row) -> str:
    """The name of a case in all that we print and write: `msa 224px float32 batch 8 eager cold
    qkv_bias=true`. Two cases that differ have different names.
    """
    row: Row = row_of(case) if isinstance(case, Case) else case
    size = Resolution(int(row["image_height"]), int(row["image_width"]))
    words = [str(row["attention"] or row["backbone"]), f"{size}px", str(row["dtype"])]
    words.append(f"batch {row['batch_size']}")
    for name, axis, default in _NAMED:
        value = row[name]
        if value is not None and value != default and (text := text_of(value)) != text_of(default):
            words += [axis.label(text)] if text else []
    words += [str(row["device"])] if row["device"] != devices.host() else []
    return " ".join([*words, str(row["settings"] or "")]).strip()


@functools.lru_cache(maxsize=1000)
def _option(option: str, text: str) -> str:
    """Rows share most of their values, and quoting takes long."""
    return f"{option} {shlex.quote(text)}"


def select(rows: Sequence[R], values: Mapping[str, Sequence[object]]) -> list[R]:
    """The rows with one of these values of each axis that is named, in their order.

    Raises BadInput for a value that no row has.
    """
    for axis, named in values.items():
        wanted = {text_of(value) for value in named}
        if wanted & {ALL}:
            continue
        texts = [_text_of_axis(row, axis) for row in rows]
        if missing := sorted(wanted.difference(texts)):
            have = nearest(missing[0], {text for text in texts if text} or {"none"})
            raise BadInput(f"no row has {AXES[axis].title} {missing[0]!r}; {have}")
        rows = [row for row, text in zip(rows, texts, strict=True) if text in wanted]
    return list(rows)


def _text_of_axis(row: Row, axis: str) -> str:
    if axis == "resolution":
        return str(Resolution(int(row["image_height"]), int(row["image_width"])))
    return text_of(row[axis])


def options_of(row: Row) -> str:
    """The options of `vitbench run` and `ab` that select the case of a row, and only it. They do
    not name a checkpoint, whose file a row does not know.
    """
    settings = str(row["settings"] or "").split()
    values = {name: text_of(row[name]) if axis.meaning else "" for name, axis in AXES.items()}
    values["resolution"] = f"{row['image_height']}x{row['image_width']}"
    if row["backbone"] and settings:  # with its head, which is no hyper-parameter
        own = ",".join(word for word in settings if not word.startswith("weights="))
        values["backbone"] += f"[{own}]" if own else ""
    words = [_option(AXES[name].option, text) for name, text in values.items() if text]
    words.append(f"--device {row['device']}")
    if row["attention"]:
        words += [f"--param {row['attention']}.{setting}" for setting in settings]
    return " ".join(words)
