"""The devices that these tests run on: a GPU, and the CPU where a test does not need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from vitbench import devices
from vitbench.devices import Device
from vitbench.subjects import settings

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)


@pytest.fixture(params=[pytest.param("cpu", marks=pytest.mark.slow), CUDA])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """A device as a worker sets it up; what it sets for the process is put back.

    The CPU is left as it is: to be set up, it would pin the process to its cores.
    """
    before = settings.read()
    found = devices.connect(request.param)
    if not devices.rules(found.name).is_host:
        found.configure(torch.get_num_threads())
    yield found
    found.release()
    settings.restore(before)
