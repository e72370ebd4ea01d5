"""A worker that knows the simulated accelerator: `python worker.py READ_FD WRITE_FD`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    folder = Path(__file__).parent
    # The tree that this file is of, and the packages that such a machine has.
    sys.path[:1] = [str(folder / "packages"), str(folder.parents[1])]
    from vitbench import devices
    from vitbench.engine import worker

    devices.__path__.append(str(folder / "devices"))
    worker.main(int(sys.argv[1]), int(sys.argv[2]))
