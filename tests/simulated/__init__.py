"""A simulated accelerator that whole runs are measured on: `--device accelerator`.

Its calls are computed on the host, once; their time is that of a queue of launches over a virtual
clock, so every figure of a run has a known truth. What else the device does is set by the variable
VITBENCH_SIMULATED, for the processes that inherit it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
PACKAGES = FOLDER / "packages"
VARIABLE = "VITBENCH_SIMULATED"


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What the device and its machine do.

    kernel_s          what each operator takes on the device at its highest clock, seconds
    launch_s          what the host takes to launch one
    idle_clock        share of the highest clock, after it was idle
    rise_s            how long it works until it has the highest
    power_cap         share of the highest clock that its power cap leaves
    slow_to_s         until then, by its own time, it is too hot and works at half its clock
    capacity          its memory, bytes
    is_readable       whether NVML is there
    is_part           it is a part of a divided GPU (MIG)
    neighbour         share of the device's time that others use
    neighbour_bytes   memory that others hold
    neighbour_from_s  when they come, by its own time
    """

    kernel_s: float = 5e-6
    launch_s: float = 4e-6
    idle_clock: float = 1.0
    rise_s: float = 0.0
    power_cap: float = 1.0
    slow_to_s: float = 0.0
    capacity: int = 80 * 2**30
    is_readable: bool = True
    is_part: bool = False
    neighbour: float = 0.0
    neighbour_bytes: int = 0
    neighbour_from_s: float = 0.0


def state() -> State:
    """As the variable says."""
    return State(**json.loads(os.environ.get(VARIABLE, "{}")))


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The device, and the packages for it, are known here and in the workers that are started."""
    from vitbench import devices
    from vitbench.engine import child, device_lock

    cached = (devices.names, devices._module, devices.connect)
    monkeypatch.setattr(devices, "__path__", [*devices.__path__, str(FOLDER / "devices")])
    monkeypatch.setattr(child, "WORKER", (str(FOLDER / "worker.py"),))
    monkeypatch.setattr(child, "_ENTRY", FOLDER / "entry.py")
    monkeypatch.syspath_prepend(PACKAGES)
    for function in cached:
        function.cache_clear()
    with tempfile.TemporaryDirectory() as folder:  # each has a GPU of its own
        monkeypatch.setattr(device_lock, "FOLDER", Path(folder))
        yield
    for function in cached:
        function.cache_clear()
