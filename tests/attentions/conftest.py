"""What the tests of mechanisms share: one thread, and the same random numbers on every run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The maps are small, and workers of pytest-xdist do not fight for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and maps do not depend on which tests ran before."""
    torch.manual_seed(0)
