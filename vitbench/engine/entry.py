"""Starts a worker whose measuring code is of one tree and whose measured code is of another.

    python -P entry.py ENGINE ROOT READ_FD WRITE_FD

Run by path in the Python that is measured. vitbench need not be installed there, but torch, fvcore,
numpy, psutil, pydantic and scipy must be. Both sides of a comparison are measured by the same code:
`vitbench` comes from ENGINE, while `attentions`, `vitbench.subjects.backbones` and every other
module come from ROOT where ROOT has them.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def bind(name: str, folder: Path) -> None:
    """Imports a package from this folder, whatever the search path says."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is not a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    spec.loader.exec_module(module)


def main(engine: Path, root: Path, read_fd: int, write_fd: int) -> None:
    """Binds the packages, then serves."""
    sys.path[:0] = [str(folder) for folder in (root, root / "src") if folder.is_dir()]
    measured = root / "attentions"
    is_registry = (measured / "_registry.py").is_file()
    bind("attentions", measured if is_registry else engine / "attentions")
    bind("vitbench", engine / "vitbench")
    bind("vitbench.subjects", engine / "vitbench" / "subjects")
    # The second is where trees older than the rooms have them.
    for folder in (root / "vitbench/subjects/backbones", root / "vitbench/backbones"):
        if (folder / "__init__.py").is_file():
            bind("vitbench.subjects.backbones", folder)
            sys.modules["vitbench.backbones"] = sys.modules["vitbench.subjects.backbones"]
            break
    from vitbench.engine import worker

    worker.main(read_fd, write_fd)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
