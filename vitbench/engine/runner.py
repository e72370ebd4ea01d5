"""Plan -> worker processes -> journal: rounds, timeouts, resume, progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitbench import devices
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.devices import Allocator
from vitbench.engine.budget import Purse
from vitbench.engine.child import Child, ChildDied, ChildTimeout
from vitbench.errors import BadInput
from vitbench.instruments.timing import TimingRule
from vitbench.results import journal as journals
from vitbench.results.csv import derive
from vitbench.results.folder import JOURNAL
from vitbench.results.journal import Journal, Run
from vitbench.results.outcome import Ceilings, Failed, Measured, Outcome, outcome_from_dict

_START_TIMEOUT_S = 300.0  # a cold disk can take minutes to import torch
_START_ATTEMPTS = 3  # a worker killed from outside while it starts costs nothing


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a run. `outcome` is None when the case starts."""

    case: Case
    round_index: int
    done: int
    total: int
    outcome: Outcome | None


OnProgress = Callable[[Progress], None]


def probe(device: str, threads: int | None = None) -> dict[str, Any]:
    """The device that `auto`, `cuda` or `cuda:1` means here, and the environment.

    Asked of a worker process, so that this one neither imports torch nor touches the GPU.
    Raises BadInput where there is no such device.
    """
    try:
        with Child() as child:
            return settle(child, device, threads, fingerprint=True)
    except (ChildDied, ChildTimeout) as error:
        raise BadInput(f"no worker process could be started: {error}") from None


def check_weights(plan: Plan) -> None:
    """Raises BadInput where a checkpoint of the plan does not fit its backbones."""
    unlike = {(case.backbone, case.params): case for case in plan.cases if case.backbone}
    with Child() as child:
        settle(child, "cpu", plan.threads, plugins=plan.plugins)
        for case in unlike.values():
            reply = child.ask({"do": "fill", "case": case.to_dict()}, _START_TIMEOUT_S)
            if "refused" in reply:
                raise BadInput(reply["refused"])


def settle(
    child: Child,
    device: str,
    threads: int | None,
    *,
    fingerprint: bool = False,
    ceilings: tuple[str, ...] = (),
    plugins: Mapping[str, str] | None = None,
    memory_limit_bytes: int | None = None,
    allocator: Allocator = "steady",
) -> dict[str, Any]:
    """Tells a new worker what it runs on; returns what it says of itself.

    Raises BadInput where it refuses, ChildDied and ChildTimeout.
    """
    request = {
        "do": "environment",
        "device": device,
        "threads": threads,
        "plugins": dict(plugins or {}),
        "memory_limit_bytes": memory_limit_bytes,
        "allocator": allocator,
        "fingerprint": fingerprint,
        "ceilings": ceilings,
    }
    reply = child.ask(request, _START_TIMEOUT_S)
    if "refused" in reply:
        raise BadInput(reply["refused"])
    return reply


def start(plan: Plan, folder: Path, on_progress: OnProgress | None = None) -> Run:
    """Measures a plan into a new folder. Raises BadInput, StorageFull."""
    with journals.create(folder, plan) as journal:
        return _carry_out(Run(plan), journal, folder, on_progress)


def resume(folder: Path, on_progress: OnProgress | None = None) -> Run:
    """Continues a run that was cut off, to the rows an undisturbed one has.

    Raises BadInput, StorageFull.
    """
    run = journals.read(folder)
    with Journal(folder / JOURNAL) as journal:
        again = journals.read(folder)
        return _carry_out(again, journal, folder, on_progress, begun=run.environment)


def _carry_out(
    run: Run,
    journal: Journal,
    folder: Path,
    on_progress: OnProgress | None,
    begun: Mapping[str, Any] | None = None,
) -> Run:
    """The CSV files are derived however the run ends."""
    purse = Purse.of(run.plan, time.monotonic())
    try:
        for round_index in range(run.plan.rounds):
            _Round(run, journal, round_index, on_progress, begun, purse).measure()
    finally:
        derive(folder, run)
    return run


class _Round:
    """One round: a worker process that measures every case once; a new one where it dies."""

    def __init__(
        self,
        run: Run,
        journal: Journal,
        round_index: int,
        on_progress: OnProgress | None,
        begun: Mapping[str, Any] | None,
        purse: Purse | None,
    ) -> None:
        self._purse = purse
        self._run = run
        self._journal = journal
        self._index = round_index
        self._on_progress = on_progress or (lambda _: None)
        self._begun = begun
        self._child: Child | None = None
        self._compilers: set[int] = set()  # processes that torch.compile keeps for the next time

    def measure(self) -> None:
        try:
            for case in self._open_cases():
                if self._purse is not None and self._purse.is_spent(time.monotonic()):
                    return
                self._tell(case, None)
                outcome = self._measure(case)
                self._journal.append(journals.outcome_entry(case, self._index, outcome))
                self._run.outcomes[case.id, self._index] = outcome
                if self._purse is not None and isinstance(outcome, Measured):
                    self._purse.learn(case, outcome)
                self._tell(case, outcome)
        finally:
            self._end_child()

    def _open_cases(self) -> Iterator[Case]:
        """Cases without an outcome in this round, less those that failed in one before.

        A failure is not tried again: it would cost its timeout in every round.
        """
        for case in self._run.plan.order(self._index):
            failed = any(isinstance(o, Failed) for o in self._run.outcomes_of(case))
            if not failed and (case.id, self._index) not in self._run.outcomes:
                yield case

    def _tell(self, case: Case, outcome: Outcome | None) -> None:
        plan = self._run.plan
        failed = {
            case_id for (case_id, _), o in self._run.outcomes.items() if isinstance(o, Failed)
        }
        total = plan.rounds * (len(plan.cases) - len(failed)) + len(failed)
        self._on_progress(Progress(case, self._index, len(self._run.outcomes), total, outcome))

    def _measure(self, case: Case) -> Outcome:
        """A worker that dies is replaced and the case tried once more: what kills a process from
        outside (the kernel, short of memory) does not come twice, what the case does will."""
        first = self._attempt(case)
        return (
            self._attempt(case) if isinstance(first, Failed) and first.kind == "crashed" else first
        )

    def _attempt(self, case: Case) -> Outcome:
        plan = self._run.plan
        request = {
            "do": "measure",
            "case": case.to_dict(),
            "rule": asdict(self._rule(case)) if plan.timed else None,
            "with_facts": self._index == 0,
        }
        try:
            child = self._ready_child()
            outcome = outcome_from_dict(child.ask(request, plan.timeout_s))
            if self._leaves_traces(case, outcome, child):
                self._end_child()
            return outcome
        except ChildTimeout as error:
            self._end_child()
            return Failed("timeout", str(error))
        except ChildDied as error:
            self._end_child()
            return Failed("crashed", str(error))

    def _leaves_traces(self, case: Case, outcome: Outcome, child: Child) -> bool:
        """Whether what the case left in the worker would disturb the next one: a process that it
        started, or a CUDA context in which every later call fails as this one did."""
        if isinstance(outcome, Failed) and outcome.kind in devices.rules(case.device).ruined_by:
            return True
        started = child.started()
        if case.runtime == "compile":
            self._compilers |= started
        return not started <= self._compilers

    def _rule(self, case: Case) -> TimingRule:
        if self._purse is None:
            return self._run.plan.rule
        return self._purse.rule(case, self._left(), time.monotonic())

    def _left(self) -> Iterator[tuple[Case, int]]:
        """The (case, round) that are still to be measured, from this round on."""
        run = self._run
        failed = {case_id for (case_id, _), o in run.outcomes.items() if isinstance(o, Failed)}
        for index in range(self._index, run.plan.rounds):
            for case in run.plan.cases:
                if case.id not in failed and (case.id, index) not in run.outcomes:
                    yield case, index

    def _ready_child(self) -> Child:
        for attempt in range(_START_ATTEMPTS):
            if self._child is not None:
                return self._child
            self._child = Child()
            try:
                self._settle_child(self._child)
            except (ChildDied, ChildTimeout) as error:
                self._end_child()
                if attempt == _START_ATTEMPTS - 1:
                    raise BadInput(f"no worker process could be started: {error}") from None
        assert self._child is not None
        return self._child

    def _settle_child(self, child: Child) -> None:
        plan, run = self._run.plan, self._run
        new_run = not run.environment
        dtypes = tuple(dict.fromkeys(case.dtype for case in plan.cases))
        reply = settle(
            child,
            plan.device,
            plan.threads,
            fingerprint=new_run or self._begun is not None,
            ceilings=dtypes if new_run and plan.timed else (),
            plugins=plan.plugins,
            memory_limit_bytes=plan.memory_limit_bytes,
            allocator=plan.allocator,
        )
        if new_run:
            ceilings = reply.get("ceilings")
            self._journal.append(journals.environment_entry(reply["environment"], ceilings))
            run.environment = reply["environment"]
            run.ceilings = None if ceilings is None else Ceilings(**ceilings)
        elif self._begun is not None:
            _same_machine(self._begun, reply["environment"])
            self._begun = None

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None


def _same_machine(begun: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises BadInput where a resumed run would mix two machines or two versions of torch."""
    if not begun:
        return
    for name, told in (
        ("device", ("device_name",)),
        ("torch", ("torch", "version")),
        ("number of threads", ("torch", "threads")),
    ):
        before, after = begun, now
        for key in told:
            before, after = before[key], after[key]
        if before != after:
            raise BadInput(f"the run was begun with another {name}: {before}, and here is {after}")
