"""One case at a time on this machine, in a worker process: what a run's rounds are made of."""

from __future__ import annotations

from functools import partial

from vitbench import runtimes
from vitbench.cases import plan as plans
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.engine.device_lock import DeviceLock
from vitbench.engine.messages import Accepted, Convert, Finished, Measure
from vitbench.engine.pool import CaseFailed, Pool, WorkerSpec
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Failed, Outcome

_SLOT = "run"


class CaseWorker:
    """A fresh worker process, which converts or measures cases of a plan; another where it dies.

    Each round of a run has one, and conversions have one of their own.
    """

    def __init__(self, plan: Plan, spec: WorkerSpec, lock: DeviceLock) -> None:
        self._plan = plan
        self._pool = Pool({_SLOT: spec}, plan.timeout_s, lock)
        self._group: str | None = None
        self._compilers: set[int] = set()  # processes that torch.compile keeps

    def check_code(self) -> None:
        """Imports what is not ours. Raises BrokenPlugin."""
        self._pool.check_plugins(_SLOT, self._plan.plugins)
        self._pool.check_classes(_SLOT, self._plan.cases)

    def start(self) -> None:
        """Starts the process where there is none. Raises BadInput."""
        self._pool.ensure(_SLOT)

    def convert(self, case: Case) -> Failed | None:
        """Converts the module of a case for its runtime; why that failed."""
        try:
            self._pool.retry(partial(self._pool.ask, _SLOT, Convert(case=case), Accepted))
        except CaseFailed as error:
            return error.failure
        return None

    def measure(self, case: Case, rule: TimingRule | None, *, with_facts: bool) -> Outcome:
        """All passes of a case. The rule is None where it is not timed."""
        group = plans.group_of(case)
        if self._group not in (None, group):
            self.end()
        self._group = group
        request = Measure(case=case, rule=rule, with_facts=with_facts)
        outcome: Outcome
        try:
            outcome = self._pool.retry(lambda: self._pool.ask(_SLOT, request, Finished)).outcome
        except CaseFailed as error:
            outcome = error.failure
        if self._leaves_processes(case):
            self.end()
        return outcome

    def _leaves_processes(self, case: Case) -> bool:
        """Whether processes that the case started still run, and would disturb the next one."""
        started = self._pool.started_by(_SLOT)
        if runtimes.load(case.runtime).RULES.keeps_processes:
            self._compilers |= started
        return not started <= self._compilers

    def end(self) -> None:
        """Ends the process; the next request starts another."""
        self._pool.end(_SLOT)

    def __enter__(self) -> CaseWorker:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)
