"""What a test of strangers' modules leaves as it found it: the settings of the process."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def settings_stay() -> Iterator[None]:
    """A worker inside of the test's process, or a module, changes them: hypothesis refuses to draw
    numbers where denormals are flushed."""
    if "torch" not in sys.modules:  # nothing changes them without
        yield
        return
    from vitbench.subjects import settings

    before = settings.read()
    yield
    settings.restore(before)
