"""The head of a fleet: deals the cases of runs to nodes, and writes down what they answer."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vitbench import devices
from vitbench.analysis import nodes
from vitbench.cases.case import Case
from vitbench.engine.runner import OnProgress, Progress
from vitbench.errors import BadInput
from vitbench.fleet import parcels
from vitbench.fleet import versions as versioning
from vitbench.fleet.dealing import Dealer
from vitbench.fleet.node import Done, Joined, Refused, Work
from vitbench.fleet.versions import Versions
from vitbench.results import journal as journals
from vitbench.results import merge
from vitbench.results.csv import derive
from vitbench.results.folder import ARTIFACTS, artifact_of
from vitbench.results.journal import Journal, Run
from vitbench.results.outcome import Failed, Outcome

# How often it looks for nodes that are new, or there again.
LOOK_S = 1.0
# How long it goes on without any node.
ALONE_S = 120.0
# How often a node's process may end with nothing measured, and a case be lost with its node.
MOST_LOSSES = 3
# After which it says that nodes are reserved by others.
_RESERVED_S = 30.0

OnNote = Callable[[str], object]
Task = Any  # a request under way, as the cluster knows it


@dataclass(frozen=True, slots=True)
class Offer:
    """One device of a living machine.

    node     its name: the host's, with a number where there are several
    machine  what the cluster knows the machine by, anew each time that it starts
    kind     machines of which count as alike
    fault    why it cannot be used, where that is known
    """

    node: str
    machine: str
    kind: str
    versions: Versions
    fault: str = ""

    def refusal(self, here: Versions) -> str:
        """Why it does not measure for a head of these versions; "" where it does."""
        return self.fault or versioning.disagreement(here, self.versions)


class Lost(Exception):
    """A node, or its process, is gone, and with it what it was asked."""


class Cluster(Protocol):
    """The machines, as Ray has them, or a test."""

    def offers(self) -> Sequence[Offer]:
        """The devices that are there now."""

    def hire(self, offer: Offer) -> Any:
        """A process that reserves the device; it answers when it has it."""

    def ask(self, member: Any, method: str, *arguments: Any) -> Task:
        """Begins a request to a process."""

    def end(self, members: Iterable[Any]) -> None:
        """Ends processes, and all that they started."""

    def share(self, content: bytes) -> Any:
        """Content that many requests may have as an argument."""

    def done(self, tasks: Sequence[Task], timeout_s: float) -> Sequence[Task]:
        """Requests that are answered, or lost, as soon as there is one."""

    def reply(self, task: Task) -> Any:
        """Of a request that is done. Raises Lost."""


@dataclass(slots=True)
class _Member:
    """A node that was hired.

    handle     as the cluster knows it
    artifacts  ids of cases whose converted module it has
    """

    offer: Offer
    handle: Any
    sweep: Sweep
    since_s: float
    is_joined: bool = False
    artifacts: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.offer.node


@dataclass(slots=True)
class Sweep:
    """A run that nodes of a kind measure; every kind where that is None."""

    folder: Path
    run: Run
    journal: Journal
    kind: str | None = None
    dealer: Dealer = field(init=False)
    losses: Counter[str] = field(default_factory=Counter)
    # Nodes that are left out of a round, since they differ from the others there.
    apart: dict[int, set[str]] = field(default_factory=dict)
    failed: set[str] = field(init=False)
    plan: bytes = field(init=False)  # as JSON, which each node gets

    def __post_init__(self) -> None:
        self.dealer = Dealer(self.run)
        self.plan = json.dumps(self.run.plan.to_dict()).encode()
        outcomes = self.run.outcomes.items()
        self.failed = {case_id for (case_id, _), one in outcomes if isinstance(one, Failed)}
        for index in range(self.run.plan.rounds):
            self.compare(index)

    def keep(self, case: Case, round_index: int, outcome: Outcome, node: str) -> None:
        """Takes note of an outcome that is written down."""
        self.run.keep(case, round_index, outcome, node)
        if isinstance(outcome, Failed):
            self.failed.add(case.id)
        self.dealer.give_back(case)

    @property
    def total(self) -> int:
        """Outcomes that there will be: a case that failed has one."""
        plan = self.run.plan
        return plan.rounds * (len(plan.cases) - len(self.failed)) + len(self.failed)

    def compare(self, round_index: int) -> Mapping[str, float]:
        """The nodes that are unlike the others in a round and were not known to be so."""
        floor = devices.rules(self.run.plan.device).max_slowdown
        found = nodes.unlike(self.run.controls(round_index), floor)
        known = self.apart.get(round_index, set())
        self.apart[round_index] = {*found}
        return {name: share for name, share in found.items() if name not in known}

    def is_apart(self, node: str, work: Work) -> bool:
        """Whether what a node gives does not count, since it differs from the others."""
        return not work.is_control and node in self.apart.get(work.round_index, ())

    def next_for(self, node: str) -> Work | None:
        """The control first in each round, where there is one."""
        plan = self.run.plan
        taken = self.dealer.take(node, lambda index: node in self.apart.get(index, ()))
        if taken is None:
            return None
        index, case = taken
        if plan.control is not None and index not in self.run.nodes[node].controls:
            self.dealer.give_back(case)
            return Work(plan.control, index, plan.rule, with_facts=False, is_control=True)
        return Work(case, index, plan.rule if plan.timed else None, with_facts=index == 0)


# Of whom, what acts upon it, and the reply.
_Reply = tuple[_Member, Callable[[_Member, Any], None], Any]


class Head:
    """Carries runs out on a cluster, until every case has its outcomes."""

    def __init__(
        self,
        cluster: Cluster,
        sweeps: Sequence[Sweep],
        on_progress: OnProgress | None = None,
        on_note: OnNote = lambda note: None,
    ) -> None:
        self._cluster, self._sweeps = cluster, sweeps
        self._on_progress, self._on_note = on_progress or (lambda _: None), on_note
        self._members: dict[str, _Member] = {}
        self._tasks: dict[Task, tuple[_Member, Callable[[_Member, Any], None]]] = {}
        self._work: dict[str, Work] = {}  # that members were given
        self._refused: dict[tuple[str, str], str] = {}  # sentences, by node and machine
        self._ends: Counter[str] = Counter()  # of nodes, since they last measured
        self._parcels: dict[str, tuple[Mapping[str, str], Mapping[str, bytes]]] = {}
        self._shared: dict[str, Any] = {}
        self._is_waiting_told = False
        self._has_joined = False  # any node, so that it may come back
        self._here = versioning.of_plan(sweeps[0].run.plan)

    def carry_out(self) -> list[Run]:
        """Measures what is open; derives the CSV files however that ends. Raises BadInput,
        StorageFull."""
        try:
            self._work_until_done()
        finally:
            try:
                self._cluster.end([member.handle for member in self._members.values()])
            finally:
                for sweep in self._sweeps:
                    if sweep.run.environment:
                        derive(sweep.folder, sweep.run)
        return [sweep.run for sweep in self._sweeps]

    def _work_until_done(self) -> None:
        looked_s, seen_s = 0.0, time.monotonic()
        while not all(sweep.dealer.is_done for sweep in self._sweeps):
            now_s = time.monotonic()
            if now_s - looked_s > LOOK_S:
                looked_s = now_s
                self._look()
            self._deal()
            if any(not member.sweep.dealer.is_done for member in self._members.values()):
                seen_s = now_s
            elif now_s - seen_s > ALONE_S or (self._refused and not self._has_joined):
                self._stop()
            self._take(self._cluster.done(list(self._tasks), LOOK_S))

    def _stop(self) -> None:
        """Raises BadInput."""
        has_begun = any(sweep.run.environment for sweep in self._sweeps)
        if not self._has_joined and (self._refused or not has_begun):
            reasons = [*self._refused.values()] or [f"none joined within {ALONE_S:g} s"]
            more = f"; and {len(reasons) - 3} more" if len(reasons) > 3 else ""
            raise BadInput(f"no node can measure: {'; '.join(reasons[:3])}{more}")
        folder = self._sweeps[0].folder
        raise BadInput(
            f"no node is left that can measure; {folder} contains the results so far: continue "
            f"with `vitbench run --resume {folder} --fleet ADDRESS`"
        )

    # Nodes

    def _look(self) -> None:
        """Hires the nodes that are new, or there again."""
        for offer in self._cluster.offers():
            if offer.node in self._members or (offer.node, offer.machine) in self._refused:
                continue
            sweep = next((s for s in self._sweeps if s.kind in (None, offer.kind)), None)
            if sweep is None or sweep.dealer.is_done:
                continue
            if reason := offer.refusal(self._here):
                self._refuse(offer, reason)
                continue
            member = _Member(offer, self._cluster.hire(offer), sweep, time.monotonic())
            self._members[offer.node] = member
            names, _ = self._parcels_of(sweep)
            self._ask(member, self._welcome, "lacking", sorted(set(names.values())))
        self._tell_of_waiting()

    def _tell_of_waiting(self) -> None:
        waiting = [m for m in self._members.values() if not m.is_joined]
        late = [m.name for m in waiting if time.monotonic() - m.since_s > _RESERVED_S]
        if late and not self._is_waiting_told:
            self._is_waiting_told = True
            more = f" and {len(late) - 3} more" if len(late) > 3 else ""
            names = f"{', '.join(late[:3])}{more}"
            self._on_note(f"waiting for {names}: busy with other jobs, or slow to start")

    def _refuse(self, offer: Offer, reason: str) -> None:
        sentence = f"{offer.node} is left out: {reason}"
        self._refused[offer.node, offer.machine] = sentence
        self._on_note(sentence)

    def _parcels_of(self, sweep: Sweep) -> tuple[Mapping[str, str], Mapping[str, bytes]]:
        """Digests by the names of a plan's parcels, and what they are the digests of."""
        key = str(sweep.folder)
        if key not in self._parcels:
            made = parcels.of_plan(sweep.run.plan)
            names = {name: parcels.digest(parcel) for name, parcel in made.items()}
            contents = {names[name]: parcel for name, parcel in made.items()}
            self._parcels[key] = names, contents
        return self._parcels[key]

    def _share(self, content: bytes) -> Any:
        """Once for each content."""
        key = parcels.digest(content)
        if key not in self._shared:
            self._shared[key] = self._cluster.share(content)
        return self._shared[key]

    def _welcome(self, member: _Member, lacking: Sequence[str]) -> None:
        names, contents = self._parcels_of(member.sweep)
        sent = [self._share(contents[digest]) for digest in lacking]
        self._ask(member, self._admit, "join", self._share(member.sweep.plan), names, *sent)

    def _admit(self, member: _Member, reply: Joined | Refused) -> None:
        """Lets a node measure that is like the first one."""
        run = member.sweep.run
        if isinstance(reply, Refused):
            self._dismiss(member, reply.reason)
            return
        first = run.environment or reply.environment
        if difference := merge.unlike(first, reply.environment):
            self._dismiss(member, f"it has another {difference} than the run began with")
            return
        environment, ceilings = dict(reply.environment), reply.ceilings
        member.is_joined = self._has_joined = True
        if member.name not in run.nodes:
            entry = journals.environment_entry(environment, ceilings, member.name)
            member.sweep.journal.append(entry)
            run.begin(environment, ceilings, member.name)

    def _dismiss(self, member: _Member, reason: str) -> None:
        self._refuse(member.offer, reason)
        del self._members[member.name]
        self._cluster.end([member.handle])

    # Work

    def _ask(
        self, member: _Member, then: Callable[[_Member, Any], None], method: str, *arguments: Any
    ) -> None:
        self._tasks[self._cluster.ask(member.handle, method, *arguments)] = member, then

    def _deal(self) -> None:
        """Gives work to every node that has none."""
        busy = {member.name for member, _ in self._tasks.values()}
        idle = [m for m in self._members.values() if m.is_joined and m.name not in busy]
        for member in idle:
            if member.sweep.dealer.is_done:
                del self._members[member.name]
                self._cluster.end([member.handle])
                continue
            work = member.sweep.next_for(member.name)
            others = [m for m in self._members.values() if m.sweep is member.sweep]
            if work is None and all(other in idle for other in others):
                # Those that are left differ from those that are gone.
                member.sweep.apart.clear()
                work = member.sweep.next_for(member.name)
            if work is not None:
                self._give(member, work)

    def _give(self, member: _Member, work: Work) -> None:
        self._work[member.name] = work
        self._report(member.sweep, work, None, member.name)
        place = artifact_of(work.case, member.sweep.folder / ARTIFACTS)
        is_sent = work.case.id not in member.artifacts and place.is_dir()
        sent = [self._share(parcels.pack_folder(place))] if is_sent else []
        self._ask(member, self._keep, "measure", work, *sent)

    def _take(self, done: Sequence[Task]) -> None:
        """Acts upon replies; their lines are on the disk before any of them counts. The controls
        come first: what a node gave that differs from the others does not count."""
        controls: list[_Reply] = []
        others: list[_Reply] = []
        for reply in self._replies(done):
            (controls if self._is_control(reply[0]) else others).append(reply)
        for chosen in (controls, others):
            for sweep in self._sweeps:
                entries = [self._entry(m, r) for m, _, r in chosen if m.sweep is sweep]
                written = [entry for entry in entries if entry is not None]
                if written:
                    sweep.journal.append(*written)
            for member, then, reply in chosen:
                then(member, reply)

    def _is_control(self, member: _Member) -> bool:
        return member.name in self._work and self._work[member.name].is_control

    def _replies(self, done: Sequence[Task]) -> Iterator[_Reply]:
        for task in done:
            member, then = self._tasks.pop(task)
            try:
                yield member, then, self._cluster.reply(task)
            except Lost as error:
                yield member, self._lose, str(error)

    def _entry(self, member: _Member, reply: Any) -> dict[str, Any] | None:
        name = member.name
        if not isinstance(reply, Done) or member.sweep.is_apart(name, self._work[name]):
            return None
        work = self._work[name]
        if work.is_control:
            return journals.control_entry(name, work.round_index, reply.outcome)
        return journals.outcome_entry(work.case, work.round_index, reply.outcome, name)

    def _keep(self, member: _Member, reply: Done | Refused) -> None:
        """Takes note of what is written down."""
        sweep, work = member.sweep, self._work.pop(member.name)
        if isinstance(reply, Refused):
            self._free(sweep, work)
            self._dismiss(member, reply.reason)
            return
        self._ends[member.name] = 0
        member.artifacts.add(work.case.id)
        if reply.artifact is not None:
            place = artifact_of(work.case, sweep.folder / ARTIFACTS)
            if not place.is_dir():
                parcels.unpack(reply.artifact, place)
        if work.is_control:
            sweep.run.nodes[member.name].controls[work.round_index] = reply.outcome
            self._compare(sweep, work.round_index)
            return
        if sweep.is_apart(member.name, work):
            self._free(sweep, work)
            return
        sweep.keep(work.case, work.round_index, reply.outcome, member.name)
        self._report(sweep, work, reply.outcome, member.name)

    def _compare(self, sweep: Sweep, round_index: int) -> None:
        """Names nodes that differ from the others in a round, and lets others measure what they
        gave there."""
        for name, share in sweep.compare(round_index).items():
            limit = devices.rules(sweep.run.plan.device).max_slowdown
            keys = [key for key, n in sweep.run.node_of.items() if n == name]
            ids = {case_id for case_id, index in keys if index == round_index}
            self._on_note(
                f"{name} takes {1 + share:.3g} times as long as the others for the same case in "
                f"round {round_index + 1} (limit {limit:.0%}): others measure its cases of this "
                f"round, {len(ids)} of them again"
            )
            sweep.journal.append(journals.withdrawn_entry(name, round_index))
            sweep.run.withdraw(name, round_index)
            sweep.failed -= ids
            sweep.dealer.reopen(case for case in sweep.run.plan.cases if case.id in ids)

    def _lose(self, member: _Member, reason: str) -> None:
        """Lets others measure what a node had when it ended; it may come back."""
        self._members.pop(member.name)
        self._cluster.end([member.handle])
        self._ends[member.name] += 1
        work = self._work.pop(member.name, None)
        self._on_note(f"{member.name} is gone: {reason}")
        if self._ends[member.name] >= MOST_LOSSES:
            self._refuse(member.offer, f"it ended {MOST_LOSSES} times with nothing measured")
        if work is not None:
            self._free(member.sweep, work)
            self._give_up(member, work)

    def _free(self, sweep: Sweep, work: Work) -> None:
        if not work.is_control:
            sweep.dealer.give_back(work.case, is_lost=True)

    def _give_up(self, member: _Member, work: Work) -> None:
        """A case whose node ended each time that it was measured may be why."""
        sweep = member.sweep
        sweep.losses[work.case.id] += 1
        if sweep.losses[work.case.id] < MOST_LOSSES or work.is_control:
            return
        text = f"the node that measured it ended, {MOST_LOSSES} times"
        failed, name = Failed("crashed", text), member.name
        sweep.journal.append(journals.outcome_entry(work.case, work.round_index, failed, name))
        sweep.keep(work.case, work.round_index, failed, name)

    def _report(self, sweep: Sweep, work: Work, outcome: Outcome | None, node: str) -> None:
        done = sum(len(one.run.outcomes) for one in self._sweeps)
        total = sum(one.total for one in self._sweeps)
        joined = sum(member.is_joined for member in self._members.values())
        where = f"on {node}, one of {joined}"
        self._on_progress(Progress(work.case, work.round_index, done, total, outcome, where))
