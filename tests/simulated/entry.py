"""The same for a side of a comparison, in place of vitbench/engine/entry.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(__file__).parent
    path = folder.parents[1] / "vitbench" / "engine" / "entry.py"
    spec = importlib.util.spec_from_file_location("entry", path)
    assert spec is not None
    assert spec.loader is not None
    entry = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(entry)
    bind = entry.bind

    def bind_with_the_device(name: str, package: Path) -> None:
        """The room of devices has one more folder."""
        bind(name, package)
        if name == "vitbench":
            from vitbench import devices

            devices.__path__.append(str(folder / "devices"))

    setattr(entry, "bind", bind_with_the_device)  # noqa: B010 - mypy knows no such attribute
    sys.path.insert(0, str(folder / "packages"))
    sys.path.append(str(folder.parents[1]))
    entry.main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
