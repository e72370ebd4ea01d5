"""A worker that knows the simulated accelerator: `python worker.py READ_FD WRITE_FD`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(__file__).parent
    sys.path[0] = str(folder.parents[1])  # the tree that this file is of
    from vitbench import devices
    from vitbench.engine import worker

    devices.__path__.append(str(folder / "devices"))
    worker.main(int(sys.argv[1]), int(sys.argv[2]))
