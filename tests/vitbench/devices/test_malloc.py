"""The C allocator of a worker: steady, a call pages nothing in; what is free can be given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from vitbench.devices import _malloc

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the allocator that is set is glibc's"
)

# Page faults a call of a function that allocates and frees blocks of 1 MiB, as a layer does with
# its activations; first as the process has it, then steady. Then resident bytes before and after
# giving back 64 MiB.
_FAULTS = """
import resource, sys
import torch
from vitbench.devices import _malloc

def call():
    blocks = [torch.empty(2**18) for _ in range(4)]
    for block in blocks:
        block.fill_(1.0)

def faults():
    for _ in range(20):
        call()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        call()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 100

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

assert _malloc.set_allocator(sys.argv[1]) == sys.argv[1]
print(faults())
held = [torch.ones(2**20) for _ in range(16)]
full = resident()
del held
kept = full - resident()
_malloc.trim()
print(kept, full - resident())
"""


def faults(asked: str) -> tuple[float, int, int]:
    """Page faults a call; bytes given back by freeing 64 MiB, and after giving back."""
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, asked], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    freed, given = second.split()
    return float(first), int(freed), int(given)


def test_steady_pages_nothing_in() -> None:
    """A call on memory that the process holds already has no page fault; freed memory stays until
    it is given back."""
    per_call, freed, given = faults("steady")
    assert per_call < 1
    assert freed < 2**20
    assert given > 60 * 2**20


def test_the_system_gives_large_blocks_back() -> None:
    """What is avoided: glibc unmaps what has a mapping of its own as soon as it is freed."""
    _, freed, _ = faults("system")
    assert freed > 60 * 2**20


def test_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is set and that is what is told."""
    monkeypatch.setattr(_malloc, "_libc", lambda: None)
    assert _malloc.set_allocator("steady") == "system"
    _malloc.trim()
