"""Classes of installed packages as attentions: `timm:layers.Attention2d`, `my.module:Class`.

Found and read from the packages' files, without importing them.
"""

from __future__ import annotations

import difflib
import importlib.util
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

import attentions
from attentions import Outline
from vitbench.cases.case import Case
from vitbench.cases.scalars import Scalar, parse_scalar
from vitbench.errors import BadInput, nearest

# The setting that holds the distribution and its version: two versions are two cases.
PACKAGE = "package"
# The setting that says what the module takes; without it the layouts are tried.
LAYOUT = "layout"
# Words that are values of settings: they stand for the numbers of the case.
WORDS = ("dim", "num_heads", "height", "width", "tokens")
# The settings of a backbone that name them.
_INSIDE = ("attention", "stage4_attention")
# Packages with an extra of ours.
_EXTRAS = {"timm": "'vitbench[backbones]'"}


def is_class(name: str) -> bool:
    """Whether a name is that of a class, and not of a mechanism or a plugin."""
    return ":" in name


def mechanisms_of(case: Case) -> list[str]:
    """The attentions that a case runs, also those inside a backbone."""
    if not case.backbone:
        return case.attention.split("+")
    inside = [str(value) for name, value in case.params if name in _INSIDE]
    return [name for text in inside or [""] for name in text.split("+")]


def classes_of(case: Case) -> list[str]:
    """Those among them that are classes."""
    return [name for name in mechanisms_of(case) if is_class(name)]


def parse(text: str, kind: str = "an attention") -> tuple[str, dict[str, Scalar]]:
    """`hilo[alpha=0.5]`, `timm:layers.Attention2d[num_heads=4]` -> name and settings. Raises
    BadInput."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]*)\])?", text.strip())
    if match is None:
        raise BadInput(f"{kind} is a name, or NAME[key=value,...], got {text!r}")
    params: dict[str, Scalar] = {}
    for item in match[2].split(",") if match[2] else ():
        key, _, value = map(str.strip, item.partition("="))
        if not (key.isidentifier() and value):
            raise BadInput(f"{match[1]} takes [key=value,...], got {item!r}")
        if key in params:
            raise BadInput(f"{match[1]} is given {key} twice")
        params[key] = parse_scalar(value)
    return match[1].strip(), params


def name_in(text: str) -> str:
    """The name alone. Raises BadInput."""
    return parse(text)[0]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a class is.

    module   that holds it, or imports it: `timm.layers`
    name     in that module
    file     of the module; None where it is not Python
    """

    module: str
    name: str
    file: Path | None

    @property
    def top(self) -> str:
        """The package that is installed."""
        return self.module.partition(".")[0]


@cache
def locate(name: str) -> Place:
    """The place of a class by its name. Raises BadInput for a module that is not there, and for a
    class that its file does not hold, with the nearest."""
    left, _, right = name.partition(":")
    *inner, class_name = right.split(".")
    parts = (*left.split("."), *inner)
    if not all(part.isidentifier() for part in (*parts, class_name)):
        raise BadInput(
            "a class is MODULE:NAME, such as timm:layers.Attention2d or my.module:Class, "
            f"got {name!r}"
        )
    file, folders = _top(name, parts[0])
    for index, part in enumerate(parts[1:], start=1):
        above = ".".join(parts[:index])
        spec = PathFinder.find_spec(f"{above}.{part}", folders) if folders else None
        if spec is None:
            there = sorted(_modules_in(folders))
            hint = nearest(part, there) if there else "it is no package"
            raise BadInput(f"{name}: {above} has no module {part!r}; {hint}")
        file, folders = _file_of(spec.origin), list(spec.submodule_search_locations or ())
    place = Place(".".join(parts), class_name, file)
    _check_class(name, place)
    return place


def _top(name: str, top: str) -> tuple[Path | None, list[str]]:
    """The file and the folders of a package. The current folder counts too, though workers do not
    run from it. Raises BadInput."""
    here = [Path(f"{top}.py"), Path(top, "__init__.py")]
    for path in here:
        if path.is_file():
            return path.absolute(), [str(path.absolute().parent)] * (path is here[1])
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        known = {*metadata.packages_distributions(), *(path.stem for path in Path().glob("*.py"))}
        near = difflib.get_close_matches(top, known, n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise BadInput(
            f"{name}: no module is called {top!r}{hint}; if that is its package's name too, "
            f"`pip install {_EXTRAS.get(top, top)}` installs it"
        )
    return _file_of(spec.origin), list(spec.submodule_search_locations or ())


def _file_of(origin: str | None) -> Path | None:
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _modules_in(folders: list[str]) -> Iterator[str]:
    for path in itertools.chain.from_iterable(Path(folder).iterdir() for folder in folders):
        if path.suffix == ".py" or (path / "__init__.py").is_file():
            yield path.stem


def _check_class(name: str, place: Place) -> None:
    """Raises BadInput where the file's text shows that it has no such name."""
    if place.file is None:
        return
    try:
        known = attentions.names_in(place.file)
    except attentions.BrokenAttention as error:
        raise BadInput(f"{name}: {error}") from None
    if known is None or place.name in known:
        return
    elsewhere = next(_with_class(place), None)
    if elsewhere is not None:
        raise BadInput(f"{name}: {place.module} has no {place.name}; it is in {elsewhere}")
    classes = [other for other in known if other[:1].isupper()] or known
    raise BadInput(f"{name}: {place.module} has no {place.name}; {nearest(place.name, classes)}")


def _with_class(place: Place) -> Iterator[str]:
    """The names under which other modules of the package define the class."""
    assert place.file is not None
    folder = next((p for p in place.file.parents if p.name == place.top), None)
    if folder is None:
        return
    for path in sorted(folder.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if re.search(rf"^class {place.name}\b", text, re.MULTILINE):
            inner = path.relative_to(folder).with_suffix("").parts
            yield f"{place.top}:{'.'.join((*inner, place.name))}"


def is_layer(name: str, settings: Mapping[str, Scalar]) -> bool:
    """Whether a name, which may be a backbone's too (`module:factory`), is that of a class of
    layers: it takes `dim`, or a setting stands for a number that only layers have."""
    if not is_class(name):
        return False
    try:
        place = locate(name)
        taken = attentions.arguments_of(place.file, place.name) if place.file else frozenset()
    except (BadInput, attentions.BrokenAttention):
        return False
    return "dim" in taken or bool({*settings.values()} & {*WORDS})


def outline_of(name: str, files: Mapping[str, Path], *, elsewhere: bool = False) -> Outline:
    """What a mechanism says without being run: its file, or the class of that name.

    elsewhere  other Pythons run it: what this one has of a class is of no interest

    Raises KeyError for a mechanism that has no file, BadInput, attentions.BrokenAttention.
    """
    if not is_class(name):
        return attentions.outline(files[name])
    if elsewhere:
        return _UNKNOWN
    place = locate(name)
    found = _UNKNOWN if place.file is None else attentions.outline_of_class(place.file, place.name)
    version = package_of(place.top)
    own: dict[str, Scalar] = {PACKAGE: version} if version else {}
    keywords = found.keywords
    if keywords is not None:
        keywords = {**keywords, **own, LAYOUT: None}
    return replace(found, keywords=keywords, settings=dict.fromkeys(attentions.STRIDES, own))


_UNKNOWN = Outline("", frozenset(), None, {}, ("eager",), {}, None)


@cache
def package_of(top: str) -> str:
    """`timm-1.0.31`: the distribution that installs a package; "" for files of no distribution."""
    try:
        return f"{top}-{metadata.version(top)}"  # most are called as what they install
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(top, ())
        return f"{names[0]}-{metadata.version(names[0])}" if names else ""
