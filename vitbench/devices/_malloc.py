"""The C library's allocator in a worker: whether freed memory stays with the process."""

from __future__ import annotations

import ctypes
import functools

from vitbench.devices import Allocator

# mallopt(3): no block has a mapping of its own; the heap's top is never given back; it grows by
# 64 MiB; all threads use the one heap.
_RETAIN_MEMORY = ((-4, 0), (-1, -1), (-2, 64 * 2**20), (-8, 1))


@functools.cache
def _libc() -> ctypes.CDLL | None:
    """The C library where it is glibc."""
    try:
        libc = ctypes.CDLL(None)
    except (OSError, TypeError):  # a static Python, and Windows
        return None
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def set_allocator(asked: Allocator) -> Allocator:
    """Sets the C library's allocator for the rest of the process; returns what is in force.

    "steady" keeps freed memory, as the allocators that PyTorch recommends for inference on a CPU do
    by default (jemalloc, tcmalloc); "system" changes nothing, and is what is in force where the C
    library is not glibc.

    glibc returns large blocks to the kernel when they are freed, or when the top of the heap is
    free; the next call has to page them in again, zeroed. Whether that happens depends on where a
    block of weights happens to lie: the same layer, built twice in one process, took 1.7 or 3.3 ms
    a call (SRA at 14 x 14 x 384, batch 1), with 0 or 1170 page faults. On a CPU this was most of
    the difference between processes, and none of it is the layer's.
    """
    libc = _libc()
    if asked == "system" or libc is None:
        return "system"
    done = all(libc.mallopt(parameter, value) == 1 for parameter, value in _RETAIN_MEMORY)
    return "steady" if done else "system"


def trim() -> None:
    """Returns free memory to the kernel: what one case held must not count as the next one's."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)
