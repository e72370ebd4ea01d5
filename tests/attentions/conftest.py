"""What the tests of mechanisms share: the same random numbers on every run."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Weights and maps do not depend on which tests ran before."""
    torch.manual_seed(0)
