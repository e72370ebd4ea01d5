"""The simulated GPU: what torch.cuda and NVML tell of it, in a process where they are replaced."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from tests.simulated import State
from tests.simulated.allocator import Allocator
from tests.simulated.backend import Backend
from tests.simulated.nvml import Nvml
from tests.simulated.queue import Clocks, VirtualQueue
from vitbench import devices
from vitbench.devices import _nvml


def backend_of(state: State) -> Backend:
    """A device in this state."""
    clocks = Clocks(
        idle=state.idle_clock,
        rise_s=state.rise_s,
        power_cap=state.power_cap,
        slow_to_s=state.slow_to_s,
    )
    queue = VirtualQueue(launch_s=state.launch_s, clocks=clocks)
    return Backend(queue, Allocator(state.capacity))


def install(backend: Backend, state: State, set_attribute: Callable[..., None] = setattr) -> None:
    """In place of torch.cuda's functions, NVML and the host's clock."""
    backend.install(torch.cuda, set_attribute)
    set_attribute(_nvml, "pynvml", Nvml(backend, state))
    queue = backend.queue
    clock: Any = SimpleNamespace(perf_counter=queue.now, monotonic=queue.now, sleep=queue.wait)
    for file in pkgutil.iter_modules(devices.__path__[:1]):
        module = importlib.import_module(f"vitbench.devices.{file.name}")
        if hasattr(module, "time"):
            set_attribute(module, "time", clock)
