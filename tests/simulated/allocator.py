"""A simulated caching allocator, by the rules of torch's: a reserve of segments, which it keeps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

MIB = 2**20


@dataclass
class _Segment:
    """What was taken from the device at once."""

    nbytes: int
    is_small: bool
    free: int


@dataclass
class Allocator:
    """Memory of one device and one process. Bytes.

    capacity   of the device, less what other processes hold
    workspace  that the library of products keeps for the process from its first product on
    """

    capacity: int = 80 * 2**30
    workspace: int = 32 * MIB
    allocated: int = 0
    highest: int = 0
    highest_reserved: int = 0
    _segments: list[_Segment] = field(default_factory=list)
    _has_workspace: bool = False

    @property
    def reserved(self) -> int:
        return sum(segment.nbytes for segment in self._segments)

    def allocate(self, nbytes: int) -> Callable[[], None]:
        """Takes so much, rounded up to 512; returns what gives it back.

        Raises torch.OutOfMemoryError, when no unused segment is left to be given back.
        """
        nbytes = rounded(nbytes)
        segment = self._segment_for(nbytes)
        segment.free -= nbytes
        self.allocated += nbytes
        self.highest = max(self.highest, self.allocated)

        def release() -> None:
            segment.free += nbytes
            self.allocated -= nbytes

        return release

    def product(self) -> None:
        """A product needs its library's workspace, which stays."""
        if not self._has_workspace:
            self._has_workspace = True
            self.allocate(self.workspace)

    def repeat(self, events: Iterable[int]) -> None:
        """Takes (positive) and gives back (negative) so much in this order; all that it took is
        given back in the end."""
        taken: dict[int, list[Callable[[], None]]] = defaultdict(list)
        for nbytes in events:
            if nbytes > 0:
                taken[nbytes].append(self.allocate(nbytes))
            elif taken[-nbytes]:  # else it was there before
                taken[-nbytes].pop()()
        for releases in taken.values():
            for release in releases:
                release()

    def _segment_for(self, nbytes: int) -> _Segment:
        is_small = nbytes <= MIB
        for segment in self._segments:
            if segment.is_small is is_small and segment.free >= nbytes:
                return segment
        size = 2 * MIB if is_small else 20 * MIB
        if nbytes >= 10 * MIB:
            size = -(-nbytes // (2 * MIB)) * 2 * MIB
        if self.reserved + size > self.capacity:
            self.empty_cache()
        if self.reserved + size > self.capacity:
            raise torch.OutOfMemoryError(f"out of memory: tried to allocate {nbytes} bytes")
        self._segments.append(_Segment(size, is_small, size))
        self.highest_reserved = max(self.highest_reserved, self.reserved)
        return self._segments[-1]

    def empty_cache(self) -> None:
        """Gives unused segments back to the device."""
        self._segments = [segment for segment in self._segments if segment.free < segment.nbytes]

    def reset_peaks(self) -> None:
        self.highest, self.highest_reserved = self.allocated, self.reserved


def rounded(nbytes: int) -> int:
    """What the allocator counts for so many bytes."""
    return -(-nbytes // 512) * 512
