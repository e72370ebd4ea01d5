"""A node's folder for its artifacts, which goes with its process, or with the next node here."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where a head may run and no node
    fcntl = None  # type: ignore[assignment] # so typed where the module is always there

_PREFIX = "vitbench-node-"
_LOCK = "lock"


class Scratch:
    """A new folder among the temporary ones. Its lock ends with the process, even one that was
    killed; what such processes left is removed here."""

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir())
        for left in parent.glob(f"{_PREFIX}*"):
            _remove_unlocked(left)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        # Locked before it has its name, so that no other node finds it without.
        new = self.path / f".{_LOCK}"
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / _LOCK)

    def remove(self) -> None:
        """Removes the folder, if it is still there."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _remove_unlocked(folder: Path) -> None:
    """Leaves folders in use, and those of other users."""
    with contextlib.suppress(OSError):
        lock = os.open(folder / _LOCK, os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
