"""What vitbench's own code is: an installed tree has no revision, and may be changed. No torch."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path


@functools.cache
def digest() -> str:
    """A hash of the content of `attentions` and `vitbench`, 12 hexadecimal digits."""
    content = hashlib.sha256()
    for package in ("attentions", "vitbench"):
        spec = importlib.util.find_spec(package)
        assert spec is not None
        for folder in spec.submodule_search_locations or []:
            for path in sorted(Path(folder).rglob("*.py")):
                content.update(path.relative_to(folder).as_posix().encode())
                content.update(path.read_bytes())
    return content.hexdigest()[:12]
