"""What every test shares: hypothesis without deadlines or chance, and tests that need a GPU."""

from __future__ import annotations

import pytest
from hypothesis import settings

# A shared machine stops a process for longer than any deadline that would mean something; and a
# run that fails can be run again, with the same examples.
settings.register_profile("shared machine", deadline=None, derandomize=True)
settings.load_profile("shared machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `cuda` where there is no such device, and says so."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
