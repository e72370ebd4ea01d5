"""Suites: named sweeps as TOML files, ours under suites/ and the user's anywhere."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
)

from vitbench import devices
from vitbench.cases.case import DTYPE_ALIASES, Resolution
from vitbench.cases.scalars import Scalar
from vitbench.errors import BadInput, nearest

_FOLDER = Path(__file__).parent / "suites"


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _resolution(value: Any) -> Resolution:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"a resolution is 224 or '800x1280', got {value!r}")
    return Resolution.parse(str(value))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"expected a whole number, got {value!r}")
    return value


def _dtype(value: Any) -> str:
    return DTYPE_ALIASES.get(str(value), str(value))


def _scalar(value: Any) -> Scalar:
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"expected a number, true, false or a word, got {value!r}")
    return value


Whole = Annotated[int, BeforeValidator(_whole)]
Words = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Wholes = Annotated[tuple[Whole, ...], BeforeValidator(_listed)]
Bools = Annotated[tuple[StrictBool, ...], BeforeValidator(_listed)]
Sizes = Annotated[
    tuple[Annotated[Resolution, BeforeValidator(_resolution)], ...], BeforeValidator(_listed)
]
Dtypes = Annotated[tuple[Annotated[str, BeforeValidator(_dtype)], ...], BeforeValidator(_listed)]
Values = Annotated[
    tuple[Annotated[Scalar, BeforeValidator(_scalar)], ...], BeforeValidator(_listed)
]


class Axes(BaseModel):
    """The [axes] of a suite; the fields of case.Sweep, each one value or a list."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    attention: Words | None = None
    backbone: Words | None = None
    resolution: Sizes | None = None
    stride: Wholes | None = None
    dim: Wholes | None = None
    num_heads: Wholes | None = None
    batch_size: Wholes | None = None
    dtype: Dtypes | None = None
    impl: Words | None = None
    runtime: Words | None = None
    cold: Bools | None = None
    mode: Words | None = None
    task: Words | None = None

    def given(self) -> dict[str, Any]:
        """Only the axes that are written down."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class Suite(BaseModel):
    """A suite file.

    title      one line for a chart's caption
    effort     "quick", "default" or "thorough"
    published  the table of reports/published/ that the results stand beside
    reference  what the throughputs of both are divided by; the table's first subject unless named;
               older suites say `anchor`
    axes       what is swept
    cuda       axes that differ on a CUDA device (a GPU wants larger batches than a CPU)
    params     hyper-parameters by mechanism or backbone that differ from the authors' settings
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    effort: str = "default"
    published: str | None = None
    reference: str | None = Field(None, validation_alias=AliasChoices("reference", "anchor"))
    axes: Axes
    cuda: Axes = Axes()
    params: dict[str, dict[str, Values]] = {}

    def axes_on(self, device: str) -> dict[str, Any]:
        """The axes for a kind of device."""
        own: Axes = getattr(self, devices.kind_of(device), Axes())
        return self.axes.given() | own.given()


def names() -> tuple[str, ...]:
    """The suites that come with vitbench."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.toml")))


def load(name: str) -> Suite:
    """A suite by name, or by the path of a TOML file. Raises BadInput."""
    if name in names():
        return read(_FOLDER / f"{name}.toml")
    if name.endswith(".toml") or "/" in name:
        return read(Path(name))
    raise BadInput(f"no suite is called {name!r}; {nearest(name, names())}; or give a .toml file")


def read(path: Path) -> Suite:
    """A suite file. Raises BadInput that names the line and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise BadInput(f"suite {path} cannot be read: {reason}") from None
    try:
        return Suite.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"suite {path} is not valid TOML: {error}") from None
    except ValidationError as error:
        raise BadInput(f"suite {path}, {_sentence(error, text)}") from None


def _sentence(error: ValidationError, text: str) -> str:
    """The first fault as `line 4, axes.resolutoin: ...`."""
    faults = error.errors()
    # A misspelt key is also a missing one; what is written there is what helps.
    fault = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    keys = [str(part) for part in fault["loc"] if isinstance(part, str)]
    keys = [key for key in keys if not key.startswith("function-")]
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        known = Suite.model_fields if len(keys) == 1 else Axes.model_fields
        message = f"no such key; {nearest(keys[-1], known)}"
    line = _line_of(keys, text)
    where = f"line {line}, " if line else ""
    return f"{where}{'.'.join(keys)}: {message}"


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
