"""The head of a fleet: whatever happens to nodes, the run is that of an undisturbed one."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.vitbench.examples import case, environment, measured, plan, plugin
from tests.vitbench.fleet.machines import HERE, Host, Machines, Task, known_outcome
from vitbench.cases import plan as plans
from vitbench.cases.limits import Limits
from vitbench.cases.space import Space
from vitbench.cases.tuning import Tuning
from vitbench.cli import fleet as command
from vitbench.engine import planning
from vitbench.errors import BadInput
from vitbench.fleet import head, runs
from vitbench.results import journal
from vitbench.results.folder import JOURNAL
from vitbench.results.journal import Run
from vitbench.results.outcome import Failed

CASES = tuple(case(batch_size=size) for size in range(1, 13))
PLAN = plans.with_control(plan(*CASES, rounds=3))
EXPECTED = {
    (one.id, index): known_outcome(one, 1.0, with_facts=index == 0)
    for one in CASES
    for index in range(3)
}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks for nodes in each turn, and does not go on without any."""
    monkeypatch.setattr(head, "LOOK_S", 0.0)
    monkeypatch.setattr(head, "ALONE_S", 0.0)


def hosts(count: int) -> list[Host]:
    """Machines that are alike."""
    return [Host(f"n{number}") for number in range(count)]


def only(done: dict[Path, Run]) -> Run:
    """The one run there is."""
    (run,) = done.values()
    return run


def entries(folder: Path, event: str) -> list[tuple[str, int]]:
    """What the journal has of a kind, in order: the case or the node, and the round."""
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    chosen = [line for line in lines if line["event"] == event]
    return [(line.get("case") or line["node"], line["round"]) for line in chosen]


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_each_case_is_measured_once_a_round(tmp_path: Path, count: int) -> None:
    """By however many nodes, each of which measures the control in the rounds that it has work in.
    A node keeps the cases that it had, as far as no other is idle."""
    run = only(runs.measure(PLAN, tmp_path / "run", Machines(*hosts(count))))
    assert run.outcomes == EXPECTED
    assert run == journal.read(tmp_path / "run")
    assert sorted(entries(tmp_path / "run", "outcome")) == sorted(EXPECTED)
    assert run.node_spread() == 0
    for (_, index), name in run.node_of.items():
        assert index in run.nodes[name].controls
    assert {row["status"] for row in run.records()} == {"measured"}


@pytest.mark.parametrize("seed", range(6))
def test_nodes_that_die_lose_no_row(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nodes that die and come back at random, as long as one is there: no outcome is lost, none is
    there twice."""
    monkeypatch.setattr(head, "MOST_LOSSES", 1000)  # which chance may reach
    machines, chance = Machines(*hosts(4), seed=seed), random.Random(seed)

    def disturb(task: Task) -> None:
        host = chance.choice(machines.hosts)
        if chance.random() < 0.1:
            if host.is_alive and sum(one.is_alive for one in machines.hosts) > 1:
                host.is_alive = False
            elif not host.is_alive:
                host.is_alive, host.starts = True, host.starts + 1

    machines.on_reply = disturb
    run = only(runs.measure(PLAN, tmp_path / "run", machines))
    assert run.outcomes == EXPECTED
    assert sorted(entries(tmp_path / "run", "outcome")) == sorted(EXPECTED)
    assert all(member.is_ended for member in machines.hired)


@pytest.mark.parametrize("seed", range(3))
def test_a_run_goes_on_with_other_nodes(tmp_path: Path, seed: int) -> None:
    """After Ctrl-C, and after all nodes were gone: what was measured is not measured again."""
    machines, chance = Machines(*hosts(3), seed=seed), random.Random(seed)
    left = chance.randint(1, 45)

    def interrupt(task: Task) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    machines.on_reply = interrupt
    with pytest.raises(KeyboardInterrupt):
        runs.measure(PLAN, tmp_path / "run", machines)
    assert all(member.is_ended for member in machines.hired)
    if not (tmp_path / "run").exists():  # no node had begun
        return
    gone = Machines(Host("gone"))
    gone.on_reply = lambda task: setattr(gone.hosts[0], "is_alive", False)
    with pytest.raises(BadInput, match="no node is left that can measure"):
        runs.resume(tmp_path / "run", gone)
    run = only(runs.resume(tmp_path / "run", Machines(Host("other"), seed=seed)))
    assert run.outcomes == EXPECTED
    assert sorted(entries(tmp_path / "run", "outcome")) == sorted(EXPECTED)


@pytest.mark.parametrize("speed", [0.7, 1.6])
def test_a_node_unlike_the_others_is_named_and_left_out(tmp_path: Path, speed: float) -> None:
    """What it measured before that was seen is measured again elsewhere; a node within the device's
    limit of noise is not named."""
    machines = Machines(Host("odd", speed=speed), Host("near", speed=0.97), *hosts(3))
    notes: list[str] = []
    run = only(runs.measure(PLAN, tmp_path / "run", machines, on_note=notes.append))
    assert {*run.outcomes} == {*EXPECTED}
    assert "odd" not in run.node_of.values()
    assert sum(note.startswith("odd takes ") for note in notes) == len(notes) >= 1
    assert "0.625 times" in notes[0] or "1.43 times" in notes[0]
    withdrawn = entries(tmp_path / "run", "withdrawn")
    assert {name for name, _ in withdrawn} == {"odd"}
    assert run == journal.read(tmp_path / "run")
    spread = run.node_spread()
    assert spread is not None
    assert spread < 0.05


def test_the_last_node_measures_though_it_is_unlike(tmp_path: Path) -> None:
    """Where the others are gone it is all there is; the rows say how far the nodes differ."""
    machines = Machines(Host("odd", speed=0.5), *hosts(2))

    def kill(task: Task) -> None:
        if len(machines.hosts[1].measured) > 4:
            for host in machines.hosts[1:]:
                host.is_alive = False

    machines.on_reply = kill
    run = only(runs.measure(PLAN, tmp_path / "run", machines))
    assert {*run.outcomes} == {*EXPECTED}
    assert "odd" in run.node_of.values()
    assert run.node_spread() == pytest.approx(1.0)


def test_nodes_must_agree(tmp_path: Path) -> None:
    """In versions with the head, and with the first node in device, torch and threads; each that
    does not is left out with a sentence. Where none is left there is no run."""
    other = environment(torch={"version": "2.13", "threads": 8})
    refused = [
        Host("old", versions={**HERE, "torch": "1.0"}),
        Host("bare", versions={}),
        Host("broken", fault="vitbench cannot be run there: No module named 'vitbench'"),
    ]
    late = Host("wide", environment=other, is_alive=False)
    machines, notes = Machines(*refused, Host("good"), late), list[str]()

    def begin(task: Task) -> None:
        late.is_alive = machines.hosts[3].measured.total() > 0

    machines.on_reply = begin
    run = only(runs.measure(PLAN, tmp_path / "run", machines, on_note=notes.append))
    assert {*run.node_of.values()} == {"good"}
    assert sorted(notes) == [
        "bare is left out: it has Python not at all, and here is 3.11".replace(
            "3.11", HERE["Python"]
        ),
        "broken is left out: vitbench cannot be run there: No module named 'vitbench'",
        f"old is left out: it has torch 1.0, and here is {HERE['torch']}",
        "wide is left out: it has another number of threads: 8, not 2, than the run began with",
    ]
    with pytest.raises(BadInput, match=r"no node can measure: old is left out: it has torch 1.0"):
        runs.measure(PLAN, tmp_path / "none", Machines(refused[0]))
    assert not (tmp_path / "none").exists()


def test_a_resume_ends_at_once_where_no_node_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what differs; and the run can go on where a node agrees."""
    monkeypatch.setattr(head, "ALONE_S", 1e9)
    machines = Machines(Host("good"))

    def stop(task: Task) -> None:
        if machines.hosts[0].measured.total() > 1:
            raise KeyboardInterrupt

    machines.on_reply = stop
    with pytest.raises(KeyboardInterrupt):
        runs.measure(PLAN, tmp_path / "run", machines)
    other = environment(torch={"version": "2.13", "threads": 8})
    with pytest.raises(BadInput, match=r"no node can measure: wide is left out: it has another"):
        runs.resume(tmp_path / "run", Machines(Host("wide", environment=other)))
    only(runs.resume(tmp_path / "run", Machines(Host("good"))))


def test_a_case_that_ends_its_nodes_fails(tmp_path: Path) -> None:
    """After three nodes it is not tried again, and the others are measured."""
    machines = Machines(*hosts(3))

    def kill(task: Task) -> None:
        if task.method == "measure" and task.arguments[0].case == CASES[4]:
            task.member.host.starts += 1

    machines.on_reply = kill
    untimed = plan(*CASES, rounds=1)
    run = only(runs.measure(untimed, tmp_path / "run", machines))
    assert run.outcomes[CASES[4].id, 0] == Failed(
        "crashed", "the node that measured it ended, 3 times"
    )
    assert len(run.outcomes) == len(CASES)


def test_a_failure_is_not_tried_again(tmp_path: Path) -> None:
    """Nor on another node."""
    fault = Failed("timeout", "no answer within 1 s")
    machines = Machines(*hosts(3))
    for host in machines.hosts:
        host.script = lambda one: fault if one == CASES[4] else None
    run = only(runs.measure(PLAN, tmp_path / "run", machines))
    assert run.outcomes_of(CASES[4]) == [fault]
    assert sum(host.measured[CASES[4].id] for host in machines.hosts) == 1
    assert len(run.outcomes) == 3 * (len(CASES) - 1) + 1


def test_each_kind_of_node_has_a_run(tmp_path: Path) -> None:
    """With `--spread each`, in a folder of its own; nodes of a kind share its run. Such runs are
    continued together."""
    machines = Machines(
        Host("a", kind="h100"), Host("b", kind="h100"), Host("c", speed=0.3, kind="l4")
    )
    left = 20

    def interrupt(task: Task) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt

    machines.on_reply = interrupt
    with pytest.raises(KeyboardInterrupt):
        runs.measure(PLAN, tmp_path / "runs", machines, runs.EACH)
    machines.on_reply = lambda task: None
    done = runs.resume(tmp_path / "runs", machines)
    assert {*done} == {tmp_path / "runs" / kind for kind in ("h100", "l4")}
    assert done[tmp_path / "runs" / "h100"].outcomes == EXPECTED
    assert {*done[tmp_path / "runs" / "l4"].node_of.values()} == {"c"}


def test_plugins_and_checkpoints_travel_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their content: a machine that has it does not get it again, whatever it is called."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "mine").mkdir()
    mine = plugin(tmp_path / "mine", "mine", "import beside_it\n")
    (tmp_path / "mine" / "beside_it.py").write_text("x = 1\n")
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"1" * 1000)
    chosen = plan(*CASES[:2], rounds=1, plugins={"mine": mine}, weights=weights)
    machines = Machines(Host("a"))
    runs.measure(chosen, tmp_path / "one", machines)
    assert [method for method, _ in machines.hosts[0].received] == ["join", "join"]
    runs.measure(chosen, tmp_path / "two", machines)
    assert len(machines.hosts[0].received) == 2
    kept = {path.name for path in tmp_path.glob("vitbench-parcels-*/*/*")}
    assert kept == {"mine.py", "beside_it.py", "weights.pt"}
    weights.write_bytes(b"2" * 1000)
    runs.measure(chosen, tmp_path / "three", machines)
    assert len(machines.hosts[0].received) == 3


def test_two_heads_do_not_write_into_one_folder(tmp_path: Path) -> None:
    """The second is refused, and the run of the first is as it was."""
    runs.measure(PLAN, tmp_path / "run", Machines(*hosts(2)))
    before = (tmp_path / "run" / JOURNAL).read_bytes()
    with pytest.raises(BadInput, match="already holds a run"):
        runs.measure(PLAN, tmp_path / "run", Machines(*hosts(2)))
    with (
        journal.Journal(tmp_path / "run" / JOURNAL),
        pytest.raises(BadInput, match="is being written by another vitbench"),
    ):
        runs.resume(tmp_path / "run", Machines(*hosts(2)))
    assert (tmp_path / "run" / JOURNAL).read_bytes() == before


def test_what_a_fleet_cannot_continue(tmp_path: Path) -> None:
    """A run of one machine, one that tunes, a shard, and no run."""
    tuning = Tuning(space=Space(({},)), limits=Limits(), defaults=())
    journal.create(tmp_path / "tuned", dataclasses.replace(PLAN, tuning=tuning)).close()
    with pytest.raises(BadInput, match="tunes, which one machine does: `vitbench tune --resume"):
        runs.resume(tmp_path / "tuned", Machines(*hosts(2)))
    with journal.create(tmp_path / "single", PLAN) as file:
        file.append(journal.environment_entry(environment(), None))
        file.append(journal.outcome_entry(CASES[0], 0, measured()))
    with pytest.raises(BadInput, match="is measured by one machine: continue it there"):
        runs.resume(tmp_path / "single", Machines(*hosts(1)))
    with pytest.raises(BadInput, match="holds no run"):
        runs.resume(tmp_path / "nothing", Machines(*hosts(1)))


def test_a_node_has_its_own_limit_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan of a fleet names none where the user does not."""
    monkeypatch.setattr(planning, "default_memory_limit", lambda device: 7 * 2**30)
    machines = Machines(*hosts(1))
    runs.measure(PLAN, tmp_path / "run", machines)
    assert machines.hired[0].node._setup().memory_limit_bytes == 7 * 2**30


def test_cases_are_dealt_evenly(tmp_path: Path) -> None:
    """Nodes that answer alike have about as many outcomes each."""
    many = plans.with_control(plan(*(case(batch_size=s) for s in range(1, 201)), rounds=2))
    run = only(runs.measure(many, tmp_path / "run", Machines(*hosts(4))))
    counts = Counter(run.node_of.values())
    assert len(counts) == 4
    assert min(counts.values()) > 50


def test_a_dry_run_prints_the_dealing(capsys: pytest.CaptureFixture[str]) -> None:
    """How many cases each node would measure, all of them once among those that share a run, and
    why a node is left out."""
    hosts_of_kinds = [Host("a", kind="h100"), Host("b", kind="h100"), Host("c", kind="l4")]
    offers = Machines(*hosts_of_kinds, Host("old", versions={**HERE, "torch": "1.0"})).offers()
    for spread, counts in ((runs.SHARE, [4, 4, 4, 0]), (runs.EACH, [6, 6, 12, 0])):
        command._print_dealing(PLAN, offers, spread)
        lines = capsys.readouterr().out.splitlines()
        assert [int(line.split()[2]) for line in lines[1:5]] == counts
        assert "it has torch 1.0, and here is" in lines[4]
        assert "12 cases on cpu, 3 rounds" in lines[-1]


def test_a_node_with_too_few_cores_is_left_out(tmp_path: Path) -> None:
    """Where the plan asks for more threads than it has."""
    chosen = plan(*CASES[:2], rounds=1, threads=4096)
    with pytest.raises(BadInput, match="n0 is left out: --threads 4096 is more"):
        runs.measure(chosen, tmp_path / "run", Machines(*hosts(1)))
    assert not (tmp_path / "run").exists()
