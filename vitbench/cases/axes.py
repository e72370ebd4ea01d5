"""The axes: one table. Options, suites, CSV columns, names, comparisons and docs follow from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import attentions
from vitbench import runtimes
from vitbench.cases import backbone_names as models
from vitbench.cases.case import Resolution
from vitbench.errors import BadInput, nearest
from vitbench.instruments import Column, Type

Value = bool | int | str | Resolution
# Of the axes `attention` and `runtime`: every value that there is.
ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One way in which cases differ. The values of this class are words.

    name     key in a suite and in a Sweep, and the column of records.csv
    help     of the option, without the choices
    meaning  of the column; empty: there is none
    unit     of the column
    more     further columns, which follow from the value; without a meaning: the only ones
    default  value of a sweep that does not name the axis; the names of cases leave it out
    of       what has the axis: attention layers, backbones or both
    is_how   whether it says how a case is computed, and not what
    choices  the only values; none: any
    examples values that a shell suggests where any is possible
    aliases  other spellings of values
    option   of `vitbench run` and `vitbench ab`; --NAME unless it says otherwise
    title    in tables and names; the name unless it says otherwise
    """

    name: str
    help: str
    meaning: str = ""
    unit: str = ""
    more: tuple[Column, ...] = ()
    default: Value | None = None
    of: Literal["layer", "backbone", "both"] = "both"
    is_how: bool = False
    choices: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    option: str = ""
    title: str = ""

    types: ClassVar[tuple[type, ...]] = (str,)
    column_type: ClassVar[Type] = "text"
    written: ClassVar[str] = "a word"

    def __post_init__(self) -> None:
        object.__setattr__(self, "option", self.option or "--" + self.name.replace("_", "-"))
        object.__setattr__(self, "title", self.title or self.name)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of records.csv."""
        if not self.meaning:
            return self.more
        own = Column(self.name, self.unit, self.meaning, self.column_type, exact=True)
        return (own, *self.more)

    @property
    def defaults(self) -> tuple[Value, ...]:
        """The values of a sweep that does not name the axis."""
        return () if self.default is None else (self.default,)

    @property
    def described(self) -> str:
        """The help with the choices."""
        return f"{self.help}: {', '.join(self.choices)}." if self.choices else f"{self.help}."

    def parse(self, text: str) -> tuple[Value, ...]:
        """The values of the option, with commas between. Raises BadInput."""
        return tuple(self._parse(item) for item in split(text))

    def read(self, data: object) -> tuple[Value, ...]:
        """A value of a suite, or a list of them. Raises ValueError."""
        items = data if isinstance(data, list) else [data]
        for item in items:
            if type(item) not in self.types:
                raise ValueError(f"expected {self.written}, got {item!r}")
        return tuple(self._parse(str(item)) for item in items)

    def values(self, data: Value | Iterable[Value]) -> tuple[Value, ...]:
        """The values that a script gives, one or several. Raises BadInput."""
        if isinstance(data, str) or not isinstance(data, Iterable):
            data = (data,)
        return tuple(self.value(item) for item in data)

    def value(self, item: Value) -> Value:
        """A value that a script gives. Raises BadInput."""
        return item

    def check(self, values: Sequence[Value]) -> None:
        """Raises BadInput for a value that does not exist."""
        for value in values:
            if self.choices and value not in self.choices:
                hint = nearest(str(value), self.choices)
                raise BadInput(f"no {self.name} is called {value!r}; {hint}")

    def label(self, value: str) -> str:
        """A value as part of a case's name."""
        return value if self.choices else f"{self.title} {value}"

    def _parse(self, text: str) -> Value:
        return self.aliases.get(text, text)


class Mechanisms(Axis):
    """The axis of attention mechanisms; `all` is every one of ours."""

    def parse(self, text: str) -> tuple[Value, ...]:
        return self._expand(split(text))

    def read(self, data: object) -> tuple[Value, ...]:
        return self._expand(Axis.read(self, data))

    def _expand(self, items: Sequence[Value]) -> tuple[Value, ...]:
        names = [attentions.names() if item == ALL else (item,) for item in items]
        return tuple(dict.fromkeys(name for group in names for name in group))


class Sizes(Axis):
    """An axis of image sizes."""

    types: ClassVar[tuple[type, ...]] = (int, str)
    written: ClassVar[str] = "224 or '800x1280'"

    def value(self, item: Value) -> Value:
        return item if isinstance(item, Resolution) else Resolution.parse(str(item))

    def _parse(self, text: str) -> Value:
        return Resolution.parse(text)


class Numbers(Axis):
    """An axis of whole numbers from 1."""

    types: ClassVar[tuple[type, ...]] = (int,)
    column_type: ClassVar[Type] = "int"
    written: ClassVar[str] = "a whole number"

    def check(self, values: Sequence[Value]) -> None:
        for value in values:
            if not isinstance(value, int):
                raise BadInput(f"{self.name} is a whole number, got {value}")
            if value < 1:
                raise BadInput(f"{self.name} must be at least 1, got {value}")

    def _parse(self, text: str) -> Value:
        try:
            return int(text)
        except ValueError:
            message = f"{self.option} takes whole numbers like 8,16, got {text!r}"
            raise BadInput(message) from None


class Flags(Axis):
    """An axis of true and false."""

    types: ClassVar[tuple[type, ...]] = (bool,)
    column_type: ClassVar[Type] = "bool"
    written: ClassVar[str] = "true or false"

    def check(self, values: Sequence[Value]) -> None:
        for value in values:
            if not isinstance(value, bool):
                raise BadInput(f"{self.name} is true or false, got {value!r}")

    def label(self, value: str) -> str:
        return self.title if value == "true" else f"{self.title}={value}"

    def _parse(self, text: str) -> Value:
        values = {"true": True, "yes": True, "false": False, "no": False}
        if text.lower() not in values:
            raise BadInput(f"{self.option} takes true, false or true,false, got {text!r}")
        return values[text.lower()]


def split(text: str) -> list[str]:
    """`a,b[c=1,d=2]` -> [a, b[c=1,d=2]]. Raises BadInput."""
    items = [item.strip() for item in re.split(r",(?![^\[\]]*\])", text)]
    if not all(items):
        raise BadInput(f"a list is values with commas between, got {text!r}")
    return items


# In the order of the options, of the columns, and of the cases, where the last varies fastest.
AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Mechanisms(
            name="attention",
            examples=(ALL, *attentions.names()),
            help="Attention mechanisms, or `all`; 'hilo[alpha=0.5]'; a plugin's name; a class of a "
            "package: timm:layers.Attention2d, my.module:Class",
            meaning="mechanism, the name of its file or class; empty for a backbone",
            of="layer",
        ),
        Axis(
            name="backbone",
            examples=models.NAMES,
            help="Whole models: litv2_s, 'litv2_s[attention=sra]', resnet50, timm:NAME, "
            "module:factory, or a plugin's name",
            meaning="whole model; empty for an attention layer",
            of="backbone",
        ),
        Axis(
            name="task",
            help="What the backbones do",
            default="classify",
            of="backbone",
            choices=models.TASKS,
        ),
        Sizes(
            name="resolution",
            help="Size of the images in pixels: 224, or 800x1280 (height x width)",
            more=(
                Column("image_height", "pixels", "height of the image behind the map", "int", True),
                Column("image_width", "pixels", "width of that image", "int", True),
            ),
            default=Resolution(224, 224),
        ),
        Numbers(
            name="stride",
            help="Pixels along the side of a token",
            meaning="side of the image patch behind one token",
            unit="pixels",
            more=(
                Column("grid_height", "tokens", "height of the feature map", "int", True),
                Column("grid_width", "tokens", "width of the feature map", "int", True),
            ),
            default=16,
            of="layer",
        ),
        Numbers(
            name="dim",
            help="Channels",
            meaning="channels of the feature map",
            unit="channels",
            default=384,
            of="layer",
        ),
        Numbers(
            name="num_heads",
            help="Attention heads",
            meaning="attention heads",
            unit="heads",
            default=12,
            of="layer",
            option="--heads",
            title="heads",
        ),
        Numbers(
            name="batch_size",
            help="Images in one call",
            meaning="images in one call",
            unit="images",
            default=8,
            title="batch",
        ),
        Axis(
            name="dtype",
            help="Data type of weights and inputs; int8 quantizes products, and leaves these in "
            "float32",
            meaning="data type of weights and inputs; `int8`: these are in float32, and products "
            "are quantized",
            default="float32",
            choices=("float32", "bfloat16", "float16", "float64", runtimes.INT8),
            aliases={"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"},
        ),
        Axis(
            name="impl",
            help="Implementation",
            meaning="`eager`: the paper's equations op by op; `fused`: fastest kernels",
            default="fused",
            is_how=True,
            choices=("eager", "fused"),
        ),
        Axis(
            name="runtime",
            help="What runs the implementation; `all` is each that is installed and that the "
            "device can run",
            meaning="what ran the implementation: "
            + ", ".join(f"`{name}`" for name in runtimes.names()),
            default=runtimes.DEFAULT,
            is_how=True,
            choices=(ALL, *runtimes.names()),
        ),
        Flags(
            name="cold",
            help="Flush the caches before each call",
            meaning="caches flushed before each call",
            default=False,
            choices=("true", "false"),
        ),
        Axis(
            name="mode",
            help="Inference, or a training step",
            meaning="`forward`, or `forward_backward`: one training step of the layer",
            default="forward",
            choices=("forward", "forward_backward"),
        ),
    )
}


def find(name: str) -> Axis:
    """The axis of that name. Raises BadInput."""
    if name not in AXES:
        raise BadInput(f"no axis is called {name!r}; {nearest(name, AXES)}")
    return AXES[name]


def text_of(value: object) -> str:
    """A value as one writes it: true, 224, eager; empty for none."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)
