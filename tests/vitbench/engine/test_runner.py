"""Plan -> workers -> journal: order, retries, resume. The workers are scripted."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.vitbench.examples import case, ceilings, environment, measured, plan
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.engine import messages, pool, runner
from vitbench.engine.child import ChildDied, ChildTimeout, Target
from vitbench.engine.messages import Finished, Measure, Ready, Refused, Reply, Request, SetUp
from vitbench.engine.runner import Progress
from vitbench.errors import BadInput, StorageFull
from vitbench.results import journal
from vitbench.results.folder import JOURNAL, RECORDS
from vitbench.results.journal import Run
from vitbench.results.outcome import Failed, Outcome

CASES = tuple(case(batch_size=size) for size in range(1, 5))
PLAN = plan(*CASES, rounds=3)

Answer = Outcome | BaseException
Script = Callable[[Case, int], Answer]


class Workers:
    """Makes workers that answer by a script: case and number of the attempt -> outcome or fault.

    asked     (worker, case, with_facts) of every measurement asked for
    started   workers made
    ended     workers closed
    starting  faults of the next workers at their start
    left      processes that a worker is found to have left running
    """

    def __init__(self) -> None:
        self.script: Script = lambda _, __: measured()
        self.environment = environment()
        self.refused: str | None = None
        self.asked: list[tuple[int, str, bool]] = []
        self.started = 0
        self.ended = 0
        self.starting: list[BaseException] = []
        self.left: set[int] = set()
        self.before_answer: Callable[[], None] = lambda: None
        self._attempts: Counter[str] = Counter()

    def ids(self) -> list[str]:
        """The cases asked for, in order."""
        return [case_id for _, case_id, _ in self.asked]

    def answer(self, worker: int, request: Request) -> Reply:
        """What a worker replies."""
        if isinstance(request, SetUp):
            if self.starting:
                raise self.starting.pop(0)
            if self.refused is not None:
                return Refused(reason=self.refused)
            return Ready(device="cpu", environment=self.environment, ceilings=ceilings())
        assert isinstance(request, Measure)
        self.asked.append((worker, request.case.id, request.with_facts))
        self.before_answer()
        self._attempts[request.case.id] += 1
        outcome = self.script(request.case, self._attempts[request.case.id])
        if isinstance(outcome, BaseException):
            raise outcome
        return Finished(outcome=outcome)

    def make(self, _: Target) -> Worker:
        """In place of Child."""
        self.started += 1
        return Worker(self, self.started)


class Worker:
    """One scripted worker."""

    def __init__(self, workers: Workers, number: int) -> None:
        self.workers, self.number = workers, number

    def ask(self, request: Request, timeout_s: float) -> Reply:
        request = messages.read_request(messages.to_line(request))
        return messages.read_reply(messages.to_line(self.workers.answer(self.number, request)))

    def started(self) -> set[int]:
        return self.workers.left

    def close(self) -> None:
        self.workers.left = set()
        self.workers.ended += 1


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """Scripted workers in place of processes."""
    made = Workers()
    monkeypatch.setattr(pool, "Child", made.make)
    return made


def keys(run: Run) -> set[tuple[str, int]]:
    """The (case, round) pairs of a run."""
    return set(run.outcomes)


def whole(chosen: Plan = PLAN) -> set[tuple[str, int]]:
    """The pairs of a run in which nothing failed."""
    return {(one.id, index) for one in chosen.cases for index in range(chosen.rounds)}


def test_every_case_in_every_round(workers: Workers, tmp_path: Path) -> None:
    """Each once a round, in the round's shuffled order, in one fresh worker a round."""
    run = runner.measure(PLAN, tmp_path / "run")
    assert keys(run) == whole()
    expected = [
        (index + 1, one.id, index == 0) for index in range(PLAN.rounds) for one in PLAN.order(index)
    ]
    assert workers.asked == expected
    assert workers.started == workers.ended == PLAN.rounds


def test_the_journal_says_the_same(workers: Workers, tmp_path: Path) -> None:
    """What is read back equals the run, and the CSV files follow."""
    run = runner.measure(PLAN, tmp_path / "run")
    assert journal.read(tmp_path / "run") == run
    with (tmp_path / "run" / RECORDS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [one.id for one in CASES]
    assert {row["rounds"] for row in rows} == {"3"}


def test_an_outcome_is_written_before_the_next_case(workers: Workers, tmp_path: Path) -> None:
    """When a worker is asked for case n + 1, the journal holds n outcomes."""
    folder = tmp_path / "run"
    held: list[int] = []
    workers.before_answer = lambda: held.append(len(journal.read(folder).outcomes))
    runner.measure(PLAN, folder)
    assert held == list(range(len(whole())))


def test_a_crash_is_tried_once_more(workers: Workers, tmp_path: Path) -> None:
    """What killed the worker from outside does not come twice: the case is measured."""
    victim = CASES[1].id

    def script(one: Case, attempt: int) -> Answer:
        return ChildDied("ended by SIGKILL") if (one.id, attempt) == (victim, 1) else measured()

    workers.script = script
    run = runner.measure(PLAN, tmp_path / "run")
    assert keys(run) == whole()
    assert not [o for o in run.outcomes.values() if isinstance(o, Failed)]
    assert workers.ids().count(victim) == PLAN.rounds + 1
    assert workers.started == workers.ended == PLAN.rounds + 1


def test_a_case_that_crashes_costs_itself(workers: Workers, tmp_path: Path) -> None:
    """Twice in its first round, then it is a row `crashed`; every other case is measured."""
    victim = CASES[1].id

    def script(one: Case, _: int) -> Answer:
        if one.id == victim:
            return ChildDied("status 139")
        return measured()

    workers.script = script
    run = runner.measure(PLAN, tmp_path / "run")
    assert run.outcomes[victim, 0] == Failed("crashed", "status 139")
    assert keys(run) == {key for key in whole() if key[0] != victim or key[1] == 0}
    assert workers.ids().count(victim) == 2
    statuses = {str(row["case"]): row["status"] for row in run.records()}
    assert statuses == {one.id: "crashed" if one.id == victim else "measured" for one in CASES}


def test_a_case_that_leaves_a_process_ends_its_worker(workers: Workers, tmp_path: Path) -> None:
    """What a case started would disturb the next: that one has a worker of its own."""
    one_round = dataclasses.replace(PLAN, rounds=1)
    victim = one_round.order(0)[0].id

    def script(one: Case, _: int) -> Answer:
        workers.left = {12345} if one.id == victim else set()
        return measured()

    workers.script = script
    run = runner.measure(one_round, tmp_path / "run")
    assert keys(run) == whole(one_round)
    assert workers.started == workers.ended == 2
    assert [worker for worker, _, _ in workers.asked] == [1] + [2] * (len(CASES) - 1)


def test_a_hang_is_not_tried_again(workers: Workers, tmp_path: Path) -> None:
    """It cost its timeout; the worker is ended and the others go on in a new one."""
    victim = CASES[2].id

    def script(one: Case, _: int) -> Answer:
        if one.id == victim:
            return ChildTimeout("no answer")
        return measured()

    workers.script = script
    run = runner.measure(PLAN, tmp_path / "run")
    assert run.outcomes[victim, 0] == Failed("timeout", "no answer")
    assert workers.ids().count(victim) == 1
    assert workers.started == workers.ended
    assert len({key for key in keys(run) if key[0] != victim}) == 3 * PLAN.rounds


def test_failures_are_not_repeated(workers: Workers, tmp_path: Path) -> None:
    """A case that failed in one round is not measured in later ones; the worker lives on."""
    fails = {CASES[0].id: 1, CASES[3].id: 2}  # in its first, and in its second round

    def script(one: Case, attempt: int) -> Answer:
        return Failed("error", "no") if fails.get(one.id) == attempt else measured()

    workers.script = script
    run = runner.measure(PLAN, tmp_path / "run")
    assert Counter(workers.ids()) == Counter({one.id: fails.get(one.id, 3) for one in CASES})
    assert workers.started == PLAN.rounds
    assert sum(row["status"] == "error" for row in run.records()) == 2


@pytest.mark.parametrize("done", range(len(whole())))
def test_resume_ends_as_if_undisturbed(workers: Workers, tmp_path: Path, done: int) -> None:
    """Cut off after any number of outcomes: what is done is not done again, and nothing lacks."""
    folder = tmp_path / "run"
    left = iter(range(done))
    workers.script = lambda *_: measured() if next(left, None) is not None else KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        runner.measure(PLAN, folder)
    assert len(journal.read(folder).outcomes) == done
    assert (folder / RECORDS).exists()
    assert workers.started == workers.ended
    before = keys(journal.read(folder))
    workers.asked.clear()
    workers.script = lambda *_: measured()
    run = runner.resume(folder)
    assert keys(run) == whole()
    assert len(workers.asked) == len(whole()) - len(before)
    assert journal.read(folder) == run
    assert (folder / JOURNAL).read_bytes().count(b"\n") == 2 + len(whole())


def test_resume_of_a_finished_run(workers: Workers, tmp_path: Path) -> None:
    """Starts no worker and changes nothing but the derived files, which it writes anew."""
    folder = tmp_path / "run"
    run = runner.measure(PLAN, folder)
    started = workers.started
    (folder / RECORDS).unlink()
    assert runner.resume(folder) == run
    assert workers.started == started
    assert (folder / RECORDS).exists()


def test_resume_does_not_repeat_failures(workers: Workers, tmp_path: Path) -> None:
    """Neither those of this run's rounds nor those of before."""
    folder = tmp_path / "run"
    answers: Iterator[Answer] = iter([Failed("timeout", "3 s"), measured(), KeyboardInterrupt()])
    workers.script = lambda *_: next(answers)
    with pytest.raises(KeyboardInterrupt):
        runner.measure(PLAN, folder)
    first = workers.ids()[0]
    workers.asked.clear()
    workers.script = lambda *_: measured()
    run = runner.resume(folder)
    assert first not in workers.ids()
    assert run.outcomes[first, 0] == Failed("timeout", "3 s")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device_name": "Another CPU, 2 threads"}, "another device: A CPU, 2 threads, and here"),
        ({"torch": {"version": "9.9", "threads": 2}}, "another torch: 2.13, and here is 9.9"),
        ({"torch": {"version": "2.13", "threads": 1}}, "another number of threads: 2"),
    ],
)
def test_another_machine_is_refused(
    workers: Workers, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    """One run, one machine: its figures would not compare. Nothing is added to the journal."""
    folder = tmp_path / "run"
    answers: Iterator[Answer] = iter([measured(), KeyboardInterrupt()])
    workers.script = lambda *_: next(answers)
    with pytest.raises(KeyboardInterrupt):
        runner.measure(PLAN, folder)
    journal = (folder / JOURNAL).read_bytes()
    workers.environment = environment(**changes)
    workers.script = lambda *_: measured()
    with pytest.raises(BadInput, match=words):
        runner.resume(folder)
    assert (folder / JOURNAL).read_bytes() == journal
    assert workers.started == workers.ended


def test_a_worker_killed_while_it_starts_costs_nothing(workers: Workers, tmp_path: Path) -> None:
    """Two of three starts may fail."""
    workers.starting = [ChildDied("SIGKILL"), ChildTimeout("300 s")]
    run = runner.measure(PLAN, tmp_path / "run")
    assert keys(run) == whole()
    assert workers.started == workers.ended == PLAN.rounds + 2


def test_a_worker_that_never_starts(workers: Workers, tmp_path: Path) -> None:
    """Is a sentence after three attempts."""
    workers.starting = [ChildDied("no torch")] * 3
    with pytest.raises(BadInput, match="no worker process could be started: no torch"):
        runner.measure(PLAN, tmp_path / "run")
    assert workers.started == workers.ended == 3


def test_a_disk_that_fills_up(
    workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with what there is: journal, CSV files, no worker left."""
    folder = tmp_path / "run"
    append = journal.Journal.append
    lines = iter(range(4))

    def full(self: journal.Journal, entry: Mapping[str, Any]) -> None:
        if next(lines, None) is None:
            raise StorageFull("the disk is full")
        append(self, entry)

    monkeypatch.setattr(journal.Journal, "append", full)
    with pytest.raises(StorageFull):
        runner.measure(PLAN, folder)
    run = journal.read(folder)
    assert len(run.outcomes) == 3
    with (folder / RECORDS).open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(CASES)
    assert workers.started == workers.ended


def test_progress(workers: Workers, tmp_path: Path) -> None:
    """Told before and after each case; done grows by one to the total, which failures shrink."""
    victim = CASES[0].id
    workers.script = lambda one, _: Failed("error", "no") if one.id == victim else measured()
    told: list[Progress] = []
    runner.measure(PLAN, tmp_path / "run", told.append)
    starts, ends = told[::2], told[1::2]
    assert [one.case for one in starts] == [one.case for one in ends]
    assert all(one.outcome is None for one in starts)
    assert all(one.outcome is not None for one in ends)
    assert [one.done for one in ends] == list(range(1, 11))
    assert ends[-1].total == ends[-1].done == 10
    assert starts[0].total == 12


def test_probe(workers: Workers) -> None:
    """The device is asked of a process of its own, which is ended; a refusal is a sentence."""
    assert pool.probe("auto").device == "cpu"
    workers.refused = "no CUDA device is there for --device cuda"
    with pytest.raises(BadInput, match="no CUDA device is there"):
        pool.probe("cuda")
    workers.starting = [ChildDied("no torch")] * 3
    with pytest.raises(BadInput, match="no worker process could be started"):
        pool.probe("cuda")
    assert workers.started == workers.ended == 5
