"""Which node measures which case next. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vitbench.cases.case import Case
from vitbench.results.journal import Run
from vitbench.results.outcome import Failed

# Where cases wait that no node had in the round before.
_ANYONE = ""


@dataclass(frozen=True, slots=True, order=True)
class _Waiting:
    position: int  # in the round's order
    case_id: str


class Dealer:
    """The open cases of a run. One that is taken comes back measured, or not.

    A node gets the cases that it had in the round before, then those that none had, then some of
    the node that has the most left.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._cases = {case.id: case for case in run.plan.cases}
        rounds = range(run.plan.rounds)
        orders = [run.plan.order(index) for index in rounds]
        self._positions = [{case.id: at for at, case in enumerate(order)} for order in orders]
        # By round and node. What is there is valid where _round_of says the same round.
        self._heaps: list[dict[str, list[_Waiting]]] = [{} for _ in rounds]
        self._round_of: dict[str, int] = {}
        self._taken: set[str] = set()
        for case in run.plan.cases:
            self._push(case)

    @property
    def is_done(self) -> bool:
        """Whether no case waits or is being measured."""
        return not self._round_of and not self._taken

    @property
    def waiting(self) -> int:
        """Cases that could be dealt now."""
        return len(self._round_of)

    def take(self, node: str, is_barred: Callable[[int], bool]) -> tuple[int, Case] | None:
        """The next round and case for a node; None where there is none. It gets nothing of the
        rounds from which it is barred."""
        for index, heaps in enumerate(self._heaps):
            while heaps and not is_barred(index):
                own = next((name for name in (node, _ANYONE) if name in heaps), None)
                name = max(heaps, key=lambda name: len(heaps[name])) if own is None else own
                case_id = heapq.heappop(heaps[name]).case_id
                if not heaps[name]:
                    del heaps[name]
                if self._round_of.get(case_id) == index:
                    del self._round_of[case_id]
                    self._taken.add(case_id)
                    return index, self._cases[case_id]
        return None

    def give_back(self, case: Case, *, is_lost: bool = False) -> None:
        """A case that was taken: its next open round may be dealt, to any node where the case was
        lost with its node."""
        self._taken.discard(case.id)
        self._push(case, is_free=is_lost)

    def reopen(self, cases: Iterable[Case]) -> None:
        """Cases of which a round was withdrawn, for any node."""
        for case in cases:
            if case.id not in self._taken:
                self._push(case, is_free=True)

    def _push(self, case: Case, *, is_free: bool = False) -> None:
        """Lets a case wait in its first round without an outcome, where there is one and the case
        has not failed."""
        run = self._run
        self._round_of.pop(case.id, None)
        if any(isinstance(outcome, Failed) for outcome in run.outcomes_of(case)):
            return
        rounds = range(run.plan.rounds)
        index = next((r for r in rounds if (case.id, r) not in run.outcomes), None)
        if index is None:
            return
        owner = _ANYONE if is_free else run.node_of.get((case.id, index - 1), _ANYONE)
        entry = _Waiting(self._positions[index][case.id], case.id)
        heapq.heappush(self._heaps[index].setdefault(owner, []), entry)
        self._round_of[case.id] = index
