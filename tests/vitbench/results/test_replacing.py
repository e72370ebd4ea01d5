"""Files that are replaced as a whole, whatever happens meanwhile."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path

import pytest

from vitbench.results.replacing import replace_bytes, replacing

SIZE = 1_000_000


def test_a_kill_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """A process that writes without end is killed 10 times: no reader ever sees half a file."""
    path = tmp_path / "out.json"
    replace_bytes(path, b"0" * SIZE)
    for number in range(10):
        if (pid := os.fork()) == 0:
            while True:
                for sign in (b"a", b"b"):
                    replace_bytes(path, sign * SIZE)
        time.sleep(0.005 + 0.002 * number)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        content = path.read_bytes()
        assert (len(content), len({*content})) == (SIZE, 1)


def test_a_full_disk_leaves_the_old(tmp_path: Path) -> None:
    """And nothing beside it; whether a text or bytes are written."""
    path = tmp_path / "out.json"
    path.write_text("old")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            replace_bytes(path, b"x" * SIZE)
        with pytest.raises(OSError, match="File too large"), replacing(path) as file:
            file.write("x" * SIZE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_what_is_no_file(tmp_path: Path) -> None:
    """A link stays one, and its target is replaced; a device is written itself; the longest name
    that a file may have is one."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    replace_bytes(link, b"new")
    assert (link.is_symlink(), target.read_text()) == (True, "new")
    replace_bytes(Path(os.devnull), b"nothing")
    assert Path(os.devnull).is_char_device()
    replace_bytes(tmp_path / ("x" * 255), b"long")
    assert {path.name for path in tmp_path.iterdir()} == {"target", "link", "x" * 255}
