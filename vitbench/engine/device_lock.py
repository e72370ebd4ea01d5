"""One vitbench at a time on an accelerator: a lock for each, which ends with its process."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where nothing is measured
    fcntl = None  # type: ignore[assignment] # so typed where the module is always there

FOLDER = Path(tempfile.gettempdir())

_LOG = logging.getLogger("vitbench")
_LOOK_S = 0.5


class DeviceLock:
    """Keeps devices for this process until it is closed.

    on_waited  gets the seconds that another vitbench was waited for
    """

    def __init__(self, on_waited: Callable[[float], object] = lambda seconds: None) -> None:
        self._on_waited = on_waited
        self._held: dict[str, int] = {}

    def acquire(self, identity: str) -> None:
        """Waits until no other vitbench has the device, and says so. Where no file can be written
        for it, nothing is waited for: others are seen on the device, as any program is."""
        if identity in self._held:
            return
        name = re.sub(r"[^\w-]", "_", identity)
        with contextlib.suppress(OSError):
            file = _open(FOLDER / f"vitbench-{name}.lock")
            self._held[identity] = file
            self._wait(file, identity)
            os.truncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)

    def _wait(self, file: int, identity: str) -> None:
        start, is_told = time.monotonic(), False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not is_told:
                    holder = os.pread(file, 20, 0).decode(errors="replace") or "unknown"
                    _LOG.warning(
                        "vitbench: another vitbench (process %s) measures on %s: waiting for it",
                        holder,
                        identity,
                    )
                is_told = True
                time.sleep(_LOOK_S)
                continue
            if is_told:
                self._on_waited(time.monotonic() - start)
            return

    def __enter__(self) -> DeviceLock:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._held.values():
            os.close(file)
        self._held.clear()


def _open(path: Path) -> int:
    """Another user's file can be locked too, if not written."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        return os.open(path, os.O_RDONLY)
