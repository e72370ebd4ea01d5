"""The C allocator of a worker: whether memory that a call frees stays with the process.

glibc gives large blocks back to the kernel when they are freed, or when the top of the heap is
free, and what is given back is paged in anew, zeroed, by the next call. Whether that happens
follows from where a block of weights happens to lie: the same layer, built twice in one process,
took 1.7 or 3.3 ms a call (SRA at 14 x 14 x 384, batch 1), with 0 or 1170 page faults. It is most of
what processes differed by on a CPU, and none of it is the layer's.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Literal

Allocator = Literal["steady", "system"]
ALLOCATORS: tuple[Allocator, ...] = ("steady", "system")

# mallopt(3): no block has a mapping of its own; the heap's top is never given back; it grows by
# 64 MiB; all threads use the one heap.
_STEADY = ((-4, 0), (-1, -1), (-2, 64 * 2**20), (-8, 1))


@functools.cache
def _libc() -> ctypes.CDLL | None:
    """The C library where it is glibc."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def settle(asked: Allocator) -> Allocator:
    """Sets the allocator for the rest of the process; returns what holds.

    "steady" keeps freed memory, as the allocators that PyTorch recommends for inference on a CPU do
    by default (jemalloc, tcmalloc); "system" leaves all as it is, and is what holds where the C
    library is not glibc.
    """
    libc = _libc()
    if asked == "system" or libc is None:
        return "system"
    done = all(libc.mallopt(parameter, value) == 1 for parameter, value in _STEADY)
    return "steady" if done else "system"


def give_back() -> None:
    """Returns what is free to the kernel: what one case held must not count as the next one's."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)
