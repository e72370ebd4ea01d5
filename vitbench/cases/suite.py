"""Suites: named sweeps as TOML files, ours under suites/ and the user's anywhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from vitbench import devices, runtimes
from vitbench.cases.axes import AXES
from vitbench.cases.scalars import Scalar
from vitbench.errors import BadInput, nearest

# The axes that name what is measured.
_SUBJECTS = ("attention", "backbone")
_FOLDER = Path(__file__).parent / "suites"


def _scalars(data: Any) -> tuple[Scalar, ...]:
    """A value of a hyper-parameter, or a list of them."""
    items = data if isinstance(data, list) else [data]
    for item in items:
        if not isinstance(item, bool | int | float | str):
            raise ValueError(f"expected a number, true, false or a word, got {item!r}")
    return tuple(items)


Scalars = Annotated[tuple[Scalar, ...], PlainValidator(_scalars)]


class Suite(BaseModel):
    """A suite file.

    title      one line for a chart's caption
    effort     "quick", "default" or "thorough"
    published  the table of reports/published/ that the results stand beside
    reference  what the throughputs of both are divided by; the table's first subject unless named;
               older suites say `anchor`
    axes       values by the name of an axis
    on         axes that differ on a kind of device, in the table of its name: `[cuda]` has larger
               batches than a CPU
    params     hyper-parameters by mechanism or backbone that differ from the authors' settings
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    effort: str = "default"
    published: str | None = None
    reference: str | None = Field(None, validation_alias=AliasChoices("reference", "anchor"))
    axes: Mapping[str, tuple[Any, ...]]
    on: Mapping[str, Mapping[str, tuple[Any, ...]]] = {}
    params: Mapping[str, Mapping[str, Scalars]] = {}

    def axes_on(self, device: str) -> dict[str, Any]:
        """The axes for a kind of device."""
        return {**self.axes, **self.on.get(devices.kind_of(device), {})}

    def subjects(self) -> set[str]:
        """The mechanisms and backbones, on any device."""
        tables = (self.axes, *self.on.values())
        names = (name for table in tables for key in _SUBJECTS for name in table.get(key, ()))
        return {name.partition("[")[0].strip() for name in names}  # litv2_s[attention=sra]


def names() -> tuple[str, ...]:
    """The suites that come with vitbench."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load(name: str, others: Iterable[str] = ()) -> Suite:
    """A suite by name, or by the path of a TOML file. Raises BadInput.

    others  mechanisms and backbones that are measured beside those of the suite, or in their place
    """
    if name in names():
        return read(_FOLDER / f"{name}.toml")
    if name.endswith(".toml") or "/" in name:
        return read(Path(name), others)
    raise BadInput(f"no suite is called {name!r}; {nearest(name, names())}; or give a .toml file")


def read(path: Path, others: Iterable[str] = ()) -> Suite:
    """A suite file, for `load`. Raises BadInput that names the line and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadInput(f"suite {path} cannot be read: {reason}") from None
    try:
        return _checked(tomllib.loads(text), others)
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"suite {path} is not valid TOML: {error}") from None
    except _Fault as error:
        keys, message = error.args
    except ValidationError as error:
        fault = error.errors()[0]
        keys = [part for part in fault["loc"] if isinstance(part, str)]
        message = fault["msg"].removeprefix("Value error, ")
    line = _line_of(keys, text)
    where = f"line {line}, " if line else ""
    raise BadInput(f"suite {path}, {where}{'.'.join(keys)}: {message}")


class _Fault(Exception):
    """Keys and a message."""


def _checked(data: dict[str, Any], others: Iterable[str]) -> Suite:
    """The suite of a file. Raises _Fault, ValidationError."""
    known = (*(name for name in Suite.model_fields if name != "on"), *devices.names())
    for key in data:
        if key not in (*known, "anchor"):  # which older suites say
            raise _Fault([key], f"no such key; {nearest(key, known)}")
    tables = {key: _axes(key, data[key]) for key in ("axes", *devices.names()) if key in data}
    rest = {key: value for key, value in data.items() if key not in tables}
    axes = {"axes": tables.pop("axes")} if "axes" in tables else {}
    suite = Suite.model_validate(rest | axes | {"on": tables})
    subjects = {*suite.subjects(), *others}
    for name in suite.params:
        if name not in subjects:
            hint = nearest(name, subjects)
            raise _Fault(["params", name], f"not among the attentions and backbones; {hint}")
    return suite


def _axes(table: str, data: Any) -> dict[str, tuple[Any, ...]]:
    """A table of axes, read."""
    if not isinstance(data, dict):
        raise _Fault([table], f"expected a table of axes, got {data!r}")
    axes = {}
    for key, value in data.items():
        if key in runtimes.OLD_KEYS:
            raise _Fault([table, key], f"is now {runtimes.OLD_KEYS[key]}")
        if key not in AXES:
            raise _Fault([table, key], f"no such key; {nearest(key, AXES)}")
        try:
            axes[key] = AXES[key].read(value)
        except ValueError as error:
            raise _Fault([table, key], str(error)) from None
    return axes


def _line_of(keys: list[str], text: str) -> int | None:
    """The line on which a key stands: the last of `keys` below the table of the others."""
    table: list[str] = []
    found = None
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line):
            table = [part.strip(" \"'") for part in header[1].split(".")]
            if table[: len(keys)] == keys:
                return number
            if table == keys[: len(table)]:
                found = number
        elif entry := re.match(r"\s*([A-Za-z0-9_.\"' -]+?)\s*=", line):
            key = table + [part.strip(" \"'") for part in entry[1].split(".")]
            if key == keys[: len(key)]:
                return number
    return found


def describe() -> Mapping[str, str]:
    """Every suite's title, by name."""
    return {name: load(name).title for name in names()}
