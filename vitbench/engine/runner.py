"""Plan -> worker processes -> journal: rounds, timeouts, resume, progress."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbench import runtimes
from vitbench.analysis.tuning import open_cases
from vitbench.cases import plan as plans
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.engine import drawing
from vitbench.engine.budget import TimeBudget
from vitbench.engine.case_worker import CaseWorker
from vitbench.engine.device_lock import DeviceLock
from vitbench.engine.messages import Ready, SetUp
from vitbench.engine.pool import WorkerSpec
from vitbench.errors import BadInput, BrokenPlugin
from vitbench.instruments.timing import TimingRule
from vitbench.results import journal as journals
from vitbench.results.csv import derive
from vitbench.results.folder import ARTIFACTS, ENVIRONMENT, JOURNAL, RECORDS, SAMPLES, discard
from vitbench.results.journal import Journal, Run
from vitbench.results.outcome import Ceilings, Failed, Measured, Outcome


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a run. `outcome` is None when the case starts; `where`: on which machine, where
    there are several."""

    case: Case
    round_index: int
    done: int
    total: int
    outcome: Outcome | None
    where: str = ""


OnProgress = Callable[[Progress], None]


def measure(plan: Plan, folder: Path, on_progress: OnProgress | None = None) -> Run:
    """Carries out a plan into a new run folder. Raises BadInput, StorageFull; a broken plugin is
    found before anything is measured, and leaves no folder.
    """
    try:
        with journals.create(folder, plan) as journal:
            return _Runner(Run(plan), journal, folder, on_progress).carry_out()
    except BrokenPlugin:
        discard(folder, JOURNAL, RECORDS, SAMPLES, ENVIRONMENT)
        raise


def resume(folder: Path, on_progress: OnProgress | None = None) -> Run:
    """Continues a run that was cut off, to the rows that an undisturbed one has.

    Raises BadInput, StorageFull.
    """
    # First: a folder that holds no run is not locked, nor cut at its last newline.
    run = journals.read(folder)
    plan = run.plan
    if run.nodes and plan.shard is None:
        raise BadInput(
            f"nodes of a fleet, or shards, measured {folder}: continue it with "
            f"`vitbench run --resume {folder} --fleet ADDRESS`"
        )
    if plan.calibration is not None:
        plan.calibration.check()
    with Journal(folder / JOURNAL) as journal:
        return _Runner(journals.read(folder), journal, folder, on_progress).carry_out()


class _Runner:
    """In each round a fresh worker measures every case once; another where it dies."""

    def __init__(
        self, run: Run, journal: Journal, folder: Path, on_progress: OnProgress | None
    ) -> None:
        self._run, self._journal, self._folder = run, journal, folder
        self._on_progress = on_progress or (lambda _: None)
        # What a run that is resumed ran on, until it was compared with this machine.
        self._previous_environment = run.environment or None
        self._converted: set[str] = set()
        # The name of this machine, where others measure other parts of the plan.
        self._node = "" if run.plan.shard is None else f"{platform.node()} {run.plan.shard}"
        self._spec = WorkerSpec(self._setup, self._on_ready)
        self._budget = TimeBudget.of(run.plan, time.monotonic())

    def carry_out(self) -> Run:
        """Measures what is open; derives the CSV files however that ends."""
        try:
            with DeviceLock(self._add_time) as self._lock:
                for index in range(self._run.plan.rounds):
                    self._index = index
                    self._choose()
                    self._convert()
                    with self._new_worker() as worker:
                        if index == 0:
                            worker.check_code()
                        self._measure_round(worker)
        finally:
            derive(self._folder, self._run)
        return self._run

    def _choose(self) -> None:
        """The cases of this round: all, unless the run looks for the best of them."""
        run, tuning = self._run, self._run.plan.tuning
        if tuning is None:
            self._chosen = {case.id for case in run.plan.cases}
            return
        was_begun = any(index == self._index for _, index in run.outcomes)
        if not was_begun:  # of draws that were cut off the rest follows
            draws = drawing.draw(run, self._index)
            self._journal.append(*map(journals.draw_entry, draws))
            for draw in draws:
                run.draw(draw)
        joined = {case.id: draw.round_index for draw in run.drawn for case in draw.cases}
        medians, records = run.medians(), run.records()
        self._chosen = open_cases(records, medians, tuning, joined, self._index)
        if was_begun and any(self._open_cases()):
            # Settings are compared within a round, so all of them are measured by one process.
            self._journal.append(journals.restart_entry(self._index))
            run.restart(self._index)

    def _add_time(self, waited_s: float) -> None:
        """Waiting for another vitbench is none of the budget's time."""
        if self._budget is not None:
            self._budget.ends_s += waited_s

    def _new_worker(self) -> CaseWorker:
        return CaseWorker(self._run.plan, self._spec, self._lock)

    def _convert(self) -> None:
        """Has modules converted for the runtimes that need it, in a process of its own, where an
        earlier round has not."""
        with self._new_worker() as worker:
            for case in self._open_cases():
                converts = runtimes.load(case.runtime).RULES.converts
                if not converts or case.id in self._converted:
                    continue
                if self._is_time_spent():
                    return
                if not self._converted:
                    worker.check_code()
                self._converted.add(case.id)
                self._report(case, None)
                worker.start()
                start_s = time.monotonic()
                if (failed := worker.convert(case)) is not None:
                    self._keep(case, failed)
                self._spend(journals.CONVERSION, start_s)

    def _is_time_spent(self) -> bool:
        return self._budget is not None and self._budget.is_spent(time.monotonic())

    def _spend(self, what: str, start_s: float) -> None:
        """Writes down what work that is no case's took until now."""
        self._journal.append(journals.spent_entry(what, time.monotonic() - start_s))

    def _keep(self, case: Case, outcome: Outcome) -> None:
        """Writes an outcome down."""
        self._journal.append(journals.outcome_entry(case, self._index, outcome, self._node))
        self._run.keep(case, self._index, outcome, self._node)
        self._report(case, outcome)

    def _measure_round(self, worker: CaseWorker) -> None:
        self._measure_control(worker)
        for case in self._open_cases():
            if self._is_time_spent():
                return
            self._report(case, None)
            # A drawn setting comes in after the first round: it is checked and counted then.
            is_new = not self._run.outcomes_of(case)
            outcome = worker.measure(case, self._rule(case), with_facts=is_new)
            if self._budget is not None and isinstance(outcome, Measured):
                self._budget.update(case, outcome)
            self._keep(case, outcome)

    def _measure_control(self, worker: CaseWorker) -> None:
        """In a round with open cases, where other machines are compared with this one."""
        control = self._run.plan.control
        if control is None or not any(self._open_cases()):
            return
        outcome = worker.measure(control, self._run.plan.rule, with_facts=False)
        self._journal.append(journals.control_entry(self._node, self._index, outcome))
        self._run.nodes[self._node].controls[self._index] = outcome

    def _open_cases(self) -> Iterator[Case]:
        """Chosen cases without an outcome in this round, less those that failed in one before.

        A failure is not tried again: it would cost its timeout in every round.
        """
        for case in self._run.plan.order(self._index):
            if case.id not in self._chosen:
                continue
            failed = any(isinstance(o, Failed) for o in self._run.outcomes_of(case))
            if not failed and (case.id, self._index) not in self._run.outcomes:
                yield case

    def _report(self, case: Case, outcome: Outcome | None) -> None:
        plan, failed = self._run.plan, self._failed_cases()
        total = plan.rounds * (len(plan.cases) - len(failed)) + len(failed)
        done = len(self._run.outcomes)
        if plan.tuning is not None:
            total = max(done, round(sum(plans.sizes(plan))))
        self._on_progress(Progress(case, self._index, done, total, outcome))

    def _failed_cases(self) -> set[str]:
        return {case_id for (case_id, _), o in self._run.outcomes.items() if isinstance(o, Failed)}

    def _rule(self, case: Case) -> TimingRule | None:
        if not self._run.plan.timed:
            return None
        if self._budget is None:
            return self._run.plan.rule
        return self._budget.allocate(case, self._open_slots(), time.monotonic())

    def _open_slots(self) -> Iterator[tuple[Case, int]]:
        """The (case, round) that are still to be measured, from this round on."""
        run, failed = self._run, self._failed_cases()
        for index in range(self._index, run.plan.rounds):
            for case in run.plan.cases:
                if case.id not in failed and (case.id, index) not in run.outcomes:
                    yield case, index

    def _setup(self) -> SetUp:
        self._start_s = time.monotonic()
        plan, is_new = self._run.plan, not self._run.environment
        dtypes = tuple(dict.fromkeys(case.tensor_dtype for case in plan.cases))
        return SetUp.of(
            plan,
            artifacts=self._folder.resolve() / ARTIFACTS,
            environment=is_new or self._previous_environment is not None,
            ceilings=dtypes if is_new and plan.timed else (),
        )

    def _on_ready(self, ready: Ready) -> None:
        """Writes down what a new run runs on; compares it where a run is continued."""
        if ready.environment is not None:
            self._note_environment(ready.environment, ready.ceilings)
        self._spend(journals.WORKER_START, self._start_s)

    def _note_environment(self, environment: Mapping[str, Any], ceilings: Ceilings | None) -> None:
        if not self._run.environment:
            self._run.begin(dict(environment), ceilings, self._node)
            self._journal.append(journals.environment_entry(environment, ceilings, self._node))
        elif self._previous_environment is not None:
            _check_same_machine(self._previous_environment, environment)
            _check_same_packages(self._run.plan, self._previous_environment, environment)
            self._previous_environment = None


def _check_same_packages(plan: Plan, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises BadInput where the rounds of a case would be of two versions of its runtime. Older
    runs did not record any."""
    old, here = (environment.get("packages") or {} for environment in (before, now))
    used = {(case.runtime, case.dtype) for case in plan.cases if case.runtime in runtimes.names()}
    for name in sorted({name for each in used for name in runtimes.packages(*each)}):
        if name in old and name in here and old[name] != here[name]:
            was, is_now = (version or "not installed" for version in (old[name], here[name]))
            raise BadInput(f"the run was begun with another {name}: {was}, and here is {is_now}")


def _check_same_machine(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises BadInput where a resumed run would mix two machines or two versions of torch."""
    for name, old, new in (
        ("device", before["device_name"], now["device_name"]),
        ("device of that name", before.get("device_id", ""), now.get("device_id", "")),
        ("torch", before["torch"]["version"], now["torch"]["version"]),
        ("number of threads", before["torch"]["threads"], now["torch"]["threads"]),
    ):
        if old != new:
            was, here = old or "not recorded", new or "not known"
            raise BadInput(f"the run was begun with another {name}: {was}, and here is {here}")
    files = now.get("plugins", {})
    for name, old in before.get("plugins", {}).items():
        if old["sha256"] != files.get(name, old)["sha256"]:
            raise BadInput(
                f"plugin {name}, or a file that it imports, has changed since the run was begun: "
                "start a new run"
            )
