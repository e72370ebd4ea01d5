"""Machines of known speed in place of a cluster, and workers of known outcomes on them."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.vitbench.examples import ceilings, environment, measured
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.engine.case_worker import CaseWorker
from vitbench.engine.device_lock import DeviceLock
from vitbench.engine.messages import Ready
from vitbench.engine.pool import WorkerSpec
from vitbench.fleet.head import Lost, Offer
from vitbench.fleet.node import Node
from vitbench.fleet.versions import Versions, packages_of, versions
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Outcome

HERE = versions(packages_of(["eager", "onnxruntime", "openvino"]))


def known_outcome(case: Case, speed: float, *, with_facts: bool) -> Outcome:
    """What a case gives: it follows from the case alone, but for the machine's speed."""
    outcome = measured(*[case.batch_size / 1000 / speed] * 10)
    return outcome if with_facts else dataclasses.replace(outcome, facts=None)


class KnownWorker(CaseWorker):
    """Measures nothing, and answers at once."""

    def __init__(self, plan: Plan, spec: WorkerSpec, lock: DeviceLock, host: Host) -> None:
        self._spec, self._host = spec, host
        self._artifacts = spec.setup().artifacts

    def start(self) -> None:
        self._spec.on_ready(
            Ready(device="cpu", environment=self._host.environment, ceilings=ceilings())
        )

    def check_code(self) -> None:
        """There is none."""

    def measure(self, case: Case, rule: TimingRule | None, *, with_facts: bool) -> Outcome:
        self._host.measured[case.id] += 1
        return self._host.script(case) or known_outcome(
            case, self._host.speed, with_facts=with_facts
        )

    def end(self) -> None:
        """There is no process."""

    def __exit__(self, *error: object) -> None:
        self.end()


@dataclass
class Host:
    """A machine. `script`: outcomes that differ; `measured`: how often each case was measured."""

    name: str
    speed: float = 1.0
    kind: str = "epyc"
    versions: Versions = field(default_factory=lambda: HERE)
    environment: dict[str, Any] = field(default_factory=environment)
    is_alive: bool = True
    starts: int = 0
    fault: str = ""
    script: Callable[[Case], Outcome | None] = lambda case: None
    measured: Counter[str] = field(default_factory=Counter)
    received: list[tuple[str, int]] = field(default_factory=list)


@dataclass(eq=False)
class Member:
    """A process on a machine, since its last start."""

    host: Host
    node: Node
    start: int
    is_ended: bool = False


@dataclass(eq=False)
class Task:
    """A request; it is carried out when its reply is waited for."""

    member: Member
    method: str
    arguments: tuple[Any, ...]


class Machines:
    """A cluster whose replies come in a random order.

    on_reply  is called before each; what it does happens to the cluster then
    """

    def __init__(self, *hosts: Host, seed: int = 0) -> None:
        self.hosts = list(hosts)
        self.chance = random.Random(seed)
        self.on_reply: Callable[[Task], None] = lambda task: None
        self.hired: list[Member] = []

    def offers(self) -> Sequence[Offer]:
        return [
            Offer(host.name, f"{host.name}-{host.starts}", host.kind, host.versions, host.fault)
            for host in self.hosts
            if host.is_alive
        ]

    def hire(self, offer: Offer) -> Member:
        (host,) = [host for host in self.hosts if host.name == offer.node]
        node = Node(functools.partial(KnownWorker, host=host))
        self.hired.append(Member(host, node, host.starts))
        return self.hired[-1]

    def ask(self, member: Member, method: str, *arguments: Any) -> Task:
        return Task(member, method, arguments)

    def end(self, members: Iterable[Member]) -> None:
        for member in members:
            member.node.end()
            member.is_ended = True

    def share(self, content: bytes) -> bytes:
        return content

    def done(self, tasks: Sequence[Task], timeout_s: float) -> Sequence[Task]:
        return self.chance.sample(list(tasks), min(len(tasks), self.chance.randint(1, 3)))

    def reply(self, task: Task) -> Any:
        self.on_reply(task)
        member = task.member
        if not member.host.is_alive or member.start != member.host.starts:
            raise Lost("the node died")
        sizes = [(task.method, len(one)) for one in task.arguments[1:] if isinstance(one, bytes)]
        member.host.received += sizes
        return getattr(member.node, task.method)(*task.arguments)
