"""Two processes that take turns on one device, and the memory that each keeps."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from vitbench.devices import _accelerator, mps


@dataclass
class Card:
    """A device's memory."""

    total: int = 100
    taken: int = 0


class Allocator:
    """What a module of torch does in one process: it keeps what was freed."""

    def __init__(self, card: Card, weights: int) -> None:
        self.card, self.weights = card, weights
        self.kept = self.emptied = 0
        card.taken += weights

    def call(self, need: int) -> None:
        """Allocates so much beside the weights, and frees it."""
        more = max(0, need - self.kept)
        if self.card.taken + more > self.card.total:
            raise torch.OutOfMemoryError
        self.card.taken += more
        self.kept += more

    def memory_reserved(self, device: object) -> int:
        return self.weights + self.kept

    def mem_get_info(self, device: object) -> tuple[int, int]:
        return self.card.total - self.card.taken, self.card.total

    def empty_cache(self) -> None:
        self.card.taken -= self.kept
        self.kept = 0
        self.emptied += 1


class Device(_accelerator.Accelerator):
    """A device in one of the processes."""

    def __init__(self, backend: Allocator) -> None:
        self.backend, self.target = backend, torch.device("cpu")

    @staticmethod
    def count() -> int:
        return 1


@pytest.mark.parametrize("need", [10, 25, 45, 60, 90])
def test_what_fits_alone_fits_in_turns(need: int) -> None:
    """Of a case that needs up to nine tenths of the memory, as both prepare and time it; one that
    leaves room keeps its memory from turn to turn, for getting it anew takes time."""
    card = Card()
    sides = [Device(Allocator(card, weights=5)) for _ in range(2)]
    for side in sides:
        side.backend.call(need)
        side.release()
    for side in [*sides, *reversed(sides)] * 2:
        side.backend.call(need)
        if side.keeps_much():
            side.release()
    emptied = {side.backend.emptied - 1 for side in sides}
    assert emptied == ({0} if need <= 25 else {4})
    for side in sides:
        side.release()
    assert card.taken == 10


def test_mps_may_always_keep_much() -> None:
    """It does not say how much."""
    assert mps.Device("mps").keeps_much()
