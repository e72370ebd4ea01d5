"""Rooms whose files are listed: each file without an underscore is one runtime, device or
instrument. A user may put one of their own there.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from vitbench.errors import BadInput


def names(folders: Iterable[str]) -> list[str]:
    """The files of a package, given its __path__, without importing them."""
    found = (module.name for module in pkgutil.iter_modules(folders))
    return [name for name in found if not name.startswith("_")]


def load(package: str, name: str, *, needs: str | None = None) -> ModuleType:
    """One file of a package, which must define what it `needs`. Raises BadInput, which names the
    file.
    """
    path = f"{package.replace('.', '/')}/{name}.py"
    try:
        module = importlib.import_module(f"{package}.{name}")
    # Whatever a file raises while it is imported, the reader needs the file's name first.
    except (Exception, SystemExit) as error:
        raise BadInput(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    if needs is not None and not hasattr(module, needs):
        raise BadInput(f"{path} must define {needs}")
    return module
