"""What the tests of mechanisms share: one thread, the same random numbers on every run, and the
kernels of large maps on small ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from attentions import _linear


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


@pytest.fixture(autouse=True)
def as_for_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small maps go through the kernel that is there for large ones."""
    monkeypatch.setattr(_linear, "MANY_TOKENS", 1)
