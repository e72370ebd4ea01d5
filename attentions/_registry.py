"""The registry: a file of this folder without a leading "_" is one mechanism, its name the key.

Nothing is registered by import. `names` lists files; `load` imports the one file that was asked
for.
"""

from __future__ import annotations

import difflib
import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from attentions._files import import_file, place_of
from attentions._outline import BrokenAttention
from attentions._spec import AttentionSpec

_FOLDER = Path(__file__).parent


class UnknownAttention(LookupError):
    """No mechanism has this name."""


def files(folder: Path = _FOLDER) -> dict[str, Path]:
    """The mechanisms of a folder (this one) by name, sorted. Imports none of them."""
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def names() -> tuple[str, ...]:
    """The names of all mechanisms, sorted. Imports none of them."""
    return tuple(files())


def path_of(name: str) -> Path:
    """The file of mechanism `name`. Raises UnknownAttention, which names the nearest."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(names())}"
        raise UnknownAttention(f"no attention mechanism is called {name!r}; {hint}")
    return _FOLDER / f"{name}.py"


def load(name: str) -> AttentionSpec:
    """The spec of mechanism `name`.

    Raises UnknownAttention for a name without a file, BrokenAttention for a file that does not
    import or defines no ATTENTION.
    """
    path = path_of(name)
    return _spec_in(path, lambda: importlib.import_module(f"attentions.{name}"))


@functools.cache
def load_file(path: Path) -> AttentionSpec:
    """The spec in a file anywhere (a plugin). Raises BrokenAttention."""
    return _spec_in(path, lambda: import_file(path))


def _spec_in(path: Path, importer: Callable[[], ModuleType]) -> AttentionSpec:
    try:
        module = importer()
    # Whatever a file raises while it is imported, the reader needs the file's name first.
    except (Exception, SystemExit) as error:
        place = place_of(error, path)
        raise BrokenAttention(
            f"{path.name} cannot be imported: {type(error).__name__}: {error}"
            + (f" (raised at {place})" if place else "")
        ) from error
    spec = getattr(module, "ATTENTION", None)
    if not isinstance(spec, AttentionSpec):
        found = "nothing" if spec is None else type(spec).__name__
        raise BrokenAttention(
            f"{path.name} must define ATTENTION = AttentionSpec(module=...), found {found}"
        )
    return spec
