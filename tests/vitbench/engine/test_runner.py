"""Plan -> workers -> journal: order, retries, resume. The workers are scripted."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.vitbench.engine import workers as scripted
from tests.vitbench.examples import case, environment, measured, plan, plugin, read_csv
from vitbench.cases import plan as plans
from vitbench.cases import shard as shards
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.engine import pool, runner
from vitbench.engine.child import ChildDied, ChildTimeout
from vitbench.engine.messages import (
    Accepted,
    CheckPlugin,
    Convert,
    Finished,
    Measure,
    Refused,
    Reply,
    Request,
)
from vitbench.engine.runner import Progress
from vitbench.errors import BadInput, BrokenPlugin, StorageFull
from vitbench.results import journal
from vitbench.results.folder import JOURNAL, RECORDS
from vitbench.results.journal import Run
from vitbench.results.outcome import Failed, Measured, Outcome

CASES = tuple(case(batch_size=size) for size in range(1, 5))
PLAN = plan(*CASES, rounds=3)

Answer = Outcome | BaseException


class Workers(scripted.Workers):
    """Workers that answer by a script: a case -> its outcome, or a fault of its worker.

    asked   (worker, case, with_facts) of every measurement asked for
    converted  (worker, case) of every conversion asked for
    plugin  what they answer of a plugin, or a fault of the worker
    """

    def __init__(self) -> None:
        super().__init__()
        self.script: Callable[[Case], Answer] = lambda _: measured()
        self.asked: list[tuple[int, str, bool]] = []
        self.converted: list[tuple[int, str]] = []
        self.conversion: Callable[[Case], Reply] = lambda _: Accepted()
        self.plugin: Reply | BaseException = Accepted()

    def ids(self) -> list[str]:
        """The cases asked for, in order."""
        return [case_id for _, case_id, _ in self.asked]

    def answer(self, worker: scripted.Worker, request: Request) -> Reply:
        if isinstance(request, CheckPlugin):
            if isinstance(self.plugin, BaseException):
                raise self.plugin
            return self.plugin
        if isinstance(request, Convert):
            self.converted.append((worker.number, request.case.id))
            return self.conversion(request.case)
        assert isinstance(request, Measure)
        self.asked.append((worker.number, request.case.id, request.with_facts))
        outcome = self.script(request.case)
        if isinstance(outcome, BaseException):
            raise outcome
        if isinstance(outcome, Measured) and not request.with_facts:
            outcome = dataclasses.replace(outcome, facts=None)
        return Finished(outcome=outcome)


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """Scripted workers in place of processes."""
    made = Workers()
    monkeypatch.setattr(pool, "Child", made.make)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the run goes."""
    return tmp_path / "run"


def whole(chosen: Plan = PLAN) -> set[tuple[str, int]]:
    """The (case, round) pairs of a run in which nothing failed."""
    return {(case.id, index) for case in chosen.cases for index in range(chosen.rounds)}


def interrupted(workers: Workers, folder: Path, *answers: Answer) -> Run:
    """A run that was interrupted after these answers; from then on all cases are measured."""
    script = iter([*answers, KeyboardInterrupt()])
    workers.script = lambda _: next(script)
    with pytest.raises(KeyboardInterrupt):
        runner.measure(PLAN, folder)
    assert workers.alive == 0
    workers.asked.clear()
    workers.script = lambda _: measured()
    return journal.read(folder)


def test_modules_are_converted_once_and_measured_by_themselves(
    workers: Workers, folder: Path
) -> None:
    """Before the first round, in a worker that measures nothing; a case whose conversion fails is
    not measured. Each runtime has a worker of its own in each round, beside which no other is
    alive. What all that took is in the journal.
    """
    chosen = [case(runtime=runtime) for runtime in ("eager", "compile", "onnxruntime", "openvino")]
    failing = case(runtime="openvino", batch_size=3)
    fault = Failed("error", "no such operator")
    workers.conversion = lambda one: Finished(outcome=fault) if one == failing else Accepted()
    run = runner.measure(plan(*chosen, failing, rounds=2), folder)
    assert {worker for worker, _ in workers.converted} == {1}
    ids = sorted(case_id for _, case_id in workers.converted)
    assert ids == sorted([chosen[2].id, chosen[3].id, failing.id])
    assert run.outcomes[failing.id, 0] == fault
    served: dict[int, set[str]] = {}
    for worker, case_id, _ in workers.asked:
        served.setdefault(worker, set()).add(case_id)
    groups = [{one.id} for one in chosen]
    assert 1 not in served
    assert sorted(map(sorted, served.values())) == sorted(map(sorted, 2 * groups))
    assert (workers.alive, workers.most_alive) == (0, 1)
    entries = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    spent = Counter(entry["what"] for entry in entries if entry["event"] == "spent")
    assert spent == {journal.WORKER_START: 1 + len(served), journal.CONVERSION: 3}
    assert all(entry["seconds"] >= 0 for entry in entries if entry["event"] == "spent")


def test_a_run_cut_off_while_it_converts_loses_nothing(workers: Workers, folder: Path) -> None:
    """Continued, it asks for every conversion (a worker makes none twice) and measures all; a
    worker that dies while it converts does so once more."""
    chosen = plan(*(case(runtime="openvino", batch_size=size) for size in (1, 2, 3)), rounds=2)
    replies: Iterator[Reply | BaseException] = iter([Accepted(), KeyboardInterrupt()])

    def convert(_: Case) -> Reply:
        reply = next(replies)
        if isinstance(reply, BaseException):
            raise reply
        return reply

    workers.conversion = convert
    with pytest.raises(KeyboardInterrupt):
        runner.measure(chosen, folder)
    assert (workers.alive, workers.asked) == (0, [])
    replies = iter([ChildDied("killed"), *[Accepted()] * 3])
    workers.converted.clear()
    run = runner.resume(folder)
    assert run.outcomes.keys() == whole(chosen)
    assert len(workers.converted) == 4
    assert {case_id for _, case_id in workers.converted} == {one.id for one in chosen.cases}


def test_a_disk_that_is_full_ends_the_run(workers: Workers, folder: Path) -> None:
    """While it converts: that is nobody's failure, so the run that is continued converts again."""
    chosen = plan(*(case(runtime="openvino", batch_size=size) for size in (1, 2)), rounds=2)
    full = Refused(reason="the disk that holds it is full")
    workers.conversion = lambda one: full if one == chosen.cases[1] else Accepted()
    with pytest.raises(BadInput, match="the disk that holds it is full"):
        runner.measure(chosen, folder)
    assert not journal.read(folder).outcomes
    workers.conversion = lambda _: Accepted()
    assert runner.resume(folder).outcomes.keys() == whole(chosen)


@pytest.mark.parametrize(
    ("runtime", "dtype", "before", "now", "words"),
    [
        ("openvino", "float32", "2026.3", "2026.4", "another openvino: 2026.3, and here is 2026.4"),
        ("openvino", "float32", "2026.3", None, "openvino: 2026.3, and here is not installed"),
        ("openvino", "float32", "2026.3", "2026.3", ""),
        ("openvino", "int8", "2026.3", "2026.3", "another nncf: 1, and here is 2"),
        ("onnxruntime", "float32", "2026.3", "2026.4", ""),
        ("eager", "float32", "2026.3", "2026.4", ""),
    ],
)
def test_resume_keeps_to_the_versions_of_its_runtimes(
    workers: Workers,
    folder: Path,
    runtime: str,
    dtype: str,
    before: str,
    now: str | None,
    words: str,
) -> None:
    """Rounds of a case are of one version; those of packages that it does not use do not matter."""
    chosen = plan(case(runtime=runtime, dtype=dtype), rounds=2)
    answers: Iterator[Answer] = iter([measured(), KeyboardInterrupt()])
    workers.script = lambda _: next(answers)
    workers.environment = environment(packages={"openvino": before, "nncf": "1"})
    with pytest.raises(KeyboardInterrupt):
        runner.measure(chosen, folder)
    workers.script = lambda _: measured()
    workers.environment = environment(packages={"openvino": now, "nncf": "2"})
    if words:
        with pytest.raises(BadInput, match=words):
            runner.resume(folder)
        assert len(journal.read(folder).outcomes) == 1
    else:
        assert runner.resume(folder).outcomes.keys() == whole(chosen)


def test_a_budget_that_conversions_use_up_ends_the_run(
    workers: Workers, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No further conversion is begun, and what was not measured says so."""
    now_s = iter(range(0, 100000, 20))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(now_s)))
    cases = [case(runtime="openvino", batch_size=size) for size in range(1, 9)]
    run = runner.measure(plan(*cases, rounds=2, budget_s=200.0), folder)
    assert 0 < len(workers.converted) < len(cases)
    assert not run.outcomes
    assert {row["status"] for row in read_csv(folder / RECORDS)} == {"not_measured"}


def test_every_case_in_every_round(workers: Workers, folder: Path) -> None:
    """Each once a round, in the round's shuffled order, in one fresh worker a round. What is read
    back equals the run, and the CSV files follow."""
    run = runner.measure(PLAN, folder)
    assert run.outcomes.keys() == whole()
    assert workers.asked == [
        (index + 1, case.id, index == 0)
        for index in range(PLAN.rounds)
        for case in PLAN.order(index)
    ]
    assert (len(workers.started), workers.alive) == (PLAN.rounds, 0)
    assert journal.read(folder) == run
    rows = read_csv(folder / RECORDS)
    assert [row["case"] for row in rows] == [case.id for case in CASES]
    assert {row["rounds"] for row in rows} == {"3"}


DIED = ChildDied("status 139")
BROKEN = Failed("error", "no")
LATER = measured(facts=None)  # a case is looked at once


@pytest.mark.parametrize(
    ("answers", "outcomes", "replaced"),
    [
        # What killed a worker from outside does not come twice.
        ([DIED, measured(), measured(), measured()], [measured(), LATER, LATER], 1),
        ([DIED, DIED], [Failed("crashed", "status 139")], 2),
        # A hang cost its timeout.
        ([ChildTimeout("no answer")], [Failed("timeout", "no answer")], 1),
        ([BROKEN], [BROKEN], 0),
        ([measured(), BROKEN], [measured(), BROKEN], 0),
    ],
)
def test_a_case_that_fails_costs_itself(
    workers: Workers, folder: Path, answers: list[Answer], outcomes: list[Outcome], replaced: int
) -> None:
    """A crash is tried once more, any other failure not, and no failure in a later round. A worker
    that is gone is replaced, any other lives on, and every other case is measured."""
    victim = PLAN.order(0)[0]
    script = iter(answers)
    workers.script = lambda case: next(script) if case == victim else measured()
    run = runner.measure(PLAN, folder)
    assert next(script, None) is None
    assert run.outcomes_of(victim) == outcomes
    others = {key for key in whole() if key[0] != victim.id}
    assert run.outcomes.keys() == others | {(victim.id, index) for index in range(len(outcomes))}
    assert (len(workers.started), workers.alive) == (PLAN.rounds + replaced, 0)
    last = outcomes[-1]
    status = last.kind if isinstance(last, Failed) else "measured"
    statuses = {str(row["case"]): row["status"] for row in run.records()}
    assert statuses == dict.fromkeys(statuses, "measured") | {victim.id: status}


@pytest.mark.parametrize(
    ("device", "kind", "replaced"),
    [
        ("cuda", "error", 1),
        ("cuda", "out_of_memory", 1),
        ("cuda", "wrong_output", 0),
        ("cpu", "error", 0),
    ],
)
def test_a_process_that_a_case_ruined_is_replaced(
    workers: Workers, folder: Path, device: str, kind: Any, replaced: int
) -> None:
    """By what its device does not get over; the cases after it are measured by another worker."""
    workers.device = device
    one_round = dataclasses.replace(PLAN, rounds=1)
    victim = one_round.order(0)[0]
    workers.script = lambda case: Failed(kind, "no") if case == victim else measured()
    runner.measure(one_round, folder)
    others = [worker for worker, case_id, _ in workers.asked if case_id != victim.id]
    assert others == [1 + replaced] * (len(CASES) - 1)
    assert workers.alive == 0


def test_a_process_that_does_not_end_is_in_the_row(
    workers: Workers, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the reason why it was given up; the other cases are measured."""
    monkeypatch.setattr(scripted.Worker, "close", lambda _: "; its process 7 does not end")
    one_round = dataclasses.replace(PLAN, rounds=1)
    victim = one_round.order(0)[0]
    workers.script = lambda case: ChildTimeout("no answer") if case == victim else measured()
    run = runner.measure(one_round, folder)
    reason = "no answer; its process 7 does not end"
    assert run.outcomes_of(victim) == [Failed("timeout", reason)]
    assert len(run.outcomes) == len(CASES)


def test_a_case_that_leaves_a_process_ends_its_worker(workers: Workers, folder: Path) -> None:
    """What a case started would disturb the next: that one has a worker of its own."""
    one_round = dataclasses.replace(PLAN, rounds=1)
    victim = one_round.order(0)[0].id

    def script(case: Case) -> Answer:
        workers.left = {12345} if case.id == victim else set()
        return measured()

    workers.script = script
    run = runner.measure(one_round, folder)
    assert run.outcomes.keys() == whole(one_round)
    assert (len(workers.started), workers.alive) == (2, 0)
    assert [worker for worker, _, _ in workers.asked] == [1] + [2] * (len(CASES) - 1)


@pytest.mark.parametrize("done", range(len(whole()) + 1))
def test_resume_ends_as_if_undisturbed(workers: Workers, folder: Path, done: int) -> None:
    """Cut off after any number of outcomes: all are in the journal, none is measured again, and
    nothing is missing.
    A finished run starts no worker; the derived files are written anew."""
    if done < len(whole()):
        before = interrupted(workers, folder, *[measured()] * done)
    else:
        before = runner.measure(PLAN, folder)
        workers.asked.clear()
    assert len(before.outcomes) == done
    started = len(workers.started)
    (folder / RECORDS).unlink()
    run = runner.resume(folder)
    assert run.outcomes.keys() == whole()
    assert len(workers.asked) == len(whole()) - done
    assert (len(workers.started) > started) == (done < len(whole()))
    assert journal.read(folder) == run
    assert (folder / RECORDS).exists()
    assert (folder / JOURNAL).read_bytes().count(b'"event": "outcome"') == len(whole())


def test_resume_does_not_repeat_failures(workers: Workers, folder: Path) -> None:
    """Neither those of this run's rounds nor those of before."""
    before = interrupted(workers, folder, BROKEN, measured())
    ((failed, _),) = (key for key, outcome in before.outcomes.items() if outcome == BROKEN)
    run = runner.resume(folder)
    assert failed not in workers.ids()
    assert run.outcomes[failed, 0] == BROKEN


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"device_name": "Another CPU, 2 threads"}, "another device: A CPU, 2 threads, and here"),
        ({"device_id": "GPU-b"}, "another device of that name: GPU-a, and here is GPU-b"),
        ({"device_id": ""}, "another device of that name: GPU-a, and here is not known"),
        ({"torch": {"version": "9.9", "threads": 2}}, "another torch: 2.13, and here is 9.9"),
        ({"torch": {"version": "2.13", "threads": 1}}, "another number of threads: 2"),
    ],
)
def test_another_machine_is_refused(
    workers: Workers, folder: Path, changes: dict[str, Any], words: str
) -> None:
    """One run, one machine, one GPU of several of a name: its figures would not compare. Nothing is
    added to the journal."""
    workers.environment = environment(device_id="GPU-a")
    interrupted(workers, folder, measured())
    before = (folder / JOURNAL).read_bytes()
    workers.environment = environment(**{"device_id": "GPU-a"} | changes)
    with pytest.raises(BadInput, match=words):
        runner.resume(folder)
    assert (folder / JOURNAL).read_bytes() == before
    assert workers.alive == 0


def test_a_changed_plugin_is_refused(workers: Workers, folder: Path) -> None:
    """Its rows would be of two modules. Nothing is added to the journal."""
    workers.environment = environment(plugins={"mine": {"sha256": "a"}})
    interrupted(workers, folder, measured())
    before = (folder / JOURNAL).read_bytes()
    workers.environment = environment(plugins={"mine": {"sha256": "b"}})
    with pytest.raises(BadInput, match="plugin mine, or a file that it imports, has changed"):
        runner.resume(folder)
    assert (folder / JOURNAL).read_bytes() == before


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Refused(reason="mine.py cannot be imported: no"), "plugin mine.py cannot be imported: no"),
        (ChildDied("it ended"), "plugin mine.py cannot be imported: it ended"),
        (ChildTimeout("no answer"), "plugin mine.py cannot be imported: no answer"),
    ],
)
def test_a_broken_plugin_leaves_no_folder(
    workers: Workers, folder: Path, answer: Reply | BaseException, sentence: str
) -> None:
    """Nothing was measured: the folder can be given again."""
    workers.plugin = answer
    one = dataclasses.replace(PLAN, plugins={"mine": plugin(folder.parent, "mine")})
    with pytest.raises(BrokenPlugin) as caught:
        runner.measure(one, folder)
    assert str(caught.value) == sentence
    assert not folder.exists()
    assert (workers.asked, workers.alive) == ([], 0)


def test_a_worker_killed_while_it_starts_costs_nothing(workers: Workers, folder: Path) -> None:
    """Two of three starts may fail; the third failure is a sentence."""
    workers.starting = [ChildDied("SIGKILL"), ChildTimeout("300 s")]
    run = runner.measure(PLAN, folder)
    assert run.outcomes.keys() == whole()
    assert (len(workers.started), workers.alive) == (PLAN.rounds + 2, 0)


def test_a_disk_that_fills_up(
    workers: Workers, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends with what there is: journal, CSV files, no worker left."""
    append = journal.Journal.append
    lines = iter(range(5))  # the machine, the start of a worker, three outcomes

    def full(self: journal.Journal, entry: Mapping[str, Any]) -> None:
        if next(lines, None) is None:
            raise StorageFull("the disk is full")
        append(self, entry)

    monkeypatch.setattr(journal.Journal, "append", full)
    with pytest.raises(StorageFull):
        runner.measure(PLAN, folder)
    assert len(journal.read(folder).outcomes) == 3
    assert len(read_csv(folder / RECORDS)) == len(CASES)
    assert workers.alive == 0


def test_progress(workers: Workers, folder: Path) -> None:
    """Before and after each case; done grows by one to the total, which failures shrink."""
    workers.script = lambda case: BROKEN if case == CASES[0] else measured()
    steps: list[Progress] = []
    runner.measure(PLAN, folder, steps.append)
    starts, ends = steps[::2], steps[1::2]
    assert [step.case for step in starts] == [step.case for step in ends]
    assert all(step.outcome is None for step in starts)
    assert all(step.outcome is not None for step in ends)
    assert [step.done for step in ends] == list(range(1, 11))
    assert ends[-1].total == ends[-1].done == 10
    assert starts[0].total == 12


def test_probe(workers: Workers) -> None:
    """The device is asked of a process of its own, which is ended; a refusal is a sentence, and so
    are three failures to start."""
    assert pool.probe("auto").device == "cpu"
    workers.starting = [ChildDied("no torch")] * 3
    with pytest.raises(BadInput, match="no worker process could be started: no torch"):
        pool.probe("cuda")
    workers.refused = "--device cuda: this machine has no CUDA device"
    with pytest.raises(BadInput, match="this machine has no CUDA device"):
        pool.probe("cuda")
    assert (len(workers.started), workers.alive) == (5, 0)


def test_a_shard_measures_the_control_in_each_round(workers: Workers, folder: Path) -> None:
    """First of all, without counting; the journal says which machine it was, also after a resume,
    which measures no control of a round that is complete."""
    whole = plans.with_control(PLAN)
    part = shards.part_of(whole, 1, 2, lambda case: 1.0)
    run = runner.measure(part, folder)
    control = whole.control
    assert control is not None
    for number in range(1, part.rounds + 1):
        own = [asked[1:] for asked in workers.asked if asked[0] == number]
        assert own[0] == (control.id, False)
        assert len(own) == 1 + len(part.cases)
    (name,) = run.nodes
    assert name.endswith(" 1/2")
    assert {*run.nodes[name].controls} == {0, 1, 2}
    assert run == journal.read(folder)
    workers.asked.clear()
    assert runner.resume(folder) == run
    assert workers.asked == []
