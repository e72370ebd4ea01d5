"""What every test shares: one thread, how many examples hypothesis draws, tests that need a GPU."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

# Before torch is imported, here and in what tests start: maps are small, and threads of two
# workers of pytest-xdist that wait for each other take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shared machine stops a process for longer than any deadline that would mean something; and a
# run that fails can be run again, with the same examples. `make test` draws a quarter of them.
settings.register_profile("all", deadline=None, derandomize=True)
settings.register_profile("not slow", settings.get_profile("all"), max_examples=25)


def pytest_configure(config: pytest.Config) -> None:
    """`make test` is -m "not slow"; `make test-all`, and pytest without -m, run everything."""
    is_quick = config.getoption("markexpr") == "not slow"
    settings.load_profile("not slow" if is_quick else "all")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what is marked `cuda` where there is no such device, and says so."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True, scope="module")
def what_was_imported_stays() -> None:
    """As in a worker: looking through all of torch took 0.3 s before every reading."""
    gc.collect()
    gc.freeze()
