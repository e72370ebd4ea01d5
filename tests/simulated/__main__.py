"""The command where the simulated accelerator is: `python -m tests.simulated run quick`."""

from __future__ import annotations

import sys

import pytest

from tests.simulated import installed

if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch, installed(patch):
        from vitbench.__main__ import run

        sys.exit(run(sys.argv[1:]))
