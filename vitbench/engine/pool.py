"""The worker processes of a run or a comparison: started, set up, replaced when they die."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from attentions import BrokenAttention
from vitbench import devices
from vitbench.cases.case import Case
from vitbench.cases.class_names import classes_of
from vitbench.engine import messages
from vitbench.engine.child import Child, ChildDied, ChildTimeout, Target
from vitbench.engine.device_lock import DeviceLock
from vitbench.errors import BadInput, BrokenPlugin
from vitbench.results import journal
from vitbench.results.outcome import Failed
from vitbench.subjects.plugins import is_backbone

START_TIMEOUT_S = 300.0  # a cold disk can take minutes to import torch
_START_ATTEMPTS = 3  # a worker killed from outside while it starts costs nothing

Slot = TypeVar("Slot", bound=str)
AnyReply = TypeVar("AnyReply", bound=messages.Reply)
Result = TypeVar("Result")


class CaseFailed(Exception):
    """A case has no measurement, and the worker may be gone."""

    def __init__(self, slot: str, failure: Failed) -> None:
        super().__init__(failure.message)
        self.slot, self.failure = slot, failure


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How the workers of a slot are made.

    setup     the request that sets up a new one
    on_ready  gets what a new one says of itself
    problem   how the sentence begins where none can be started
    """

    setup: Callable[[], messages.SetUp]
    on_ready: Callable[[messages.Ready], None] = lambda _: None
    target: Target = field(default_factory=Target)
    problem: str = "no worker process could be started"


class Pool(Generic[Slot]):
    """One worker in each slot, from the first request on.

    With a lock, an accelerator is kept from other processes of vitbench before it is used.
    A worker that dies, does not answer in `timeout_s`, or has a failure that its device does not
    get over, is ended; the next request to its slot starts another.
    """

    def __init__(
        self, specs: Mapping[Slot, WorkerSpec], timeout_s: float, lock: DeviceLock | None = None
    ) -> None:
        self._specs, self._timeout_s, self._lock = specs, timeout_s, lock
        self._children: dict[Slot, Child] = {}
        self._devices: dict[Slot, str] = {}

    def start(self, *slots: Slot) -> None:
        """Starts workers at once: they import torch side by side. Raises BadInput."""
        for slot in slots:
            with contextlib.suppress(ChildDied):  # it is tried again
                self._children[slot] = Child(self._specs[slot].target)
        for slot in slots:
            self._setup_worker(slot)

    def ensure(self, slot: Slot) -> None:
        """Starts a worker where the slot has none. Raises BadInput."""
        if slot not in self._children:
            self.start(slot)

    def ask(self, slot: Slot, request: messages.Request, expected: type[AnyReply]) -> AnyReply:
        """The reply of a slot's worker. Raises CaseFailed, BadInput."""
        self.ensure(slot)
        try:
            reply = self._children[slot].ask(request, self._timeout_s)
        except ChildTimeout as error:
            message = f"{error}{self.end(slot)}"
            raise CaseFailed(slot, Failed("timeout", message)) from None
        except ChildDied as error:
            message = f"{error}{self.end(slot)}"
            raise CaseFailed(slot, Failed("crashed", message)) from None
        if isinstance(reply, messages.Finished) and isinstance(reply.outcome, Failed):
            if reply.outcome.kind in devices.rules(self._devices[slot]).ruined_by:
                self.end(slot)  # every later call there would fail as this one did
            raise CaseFailed(slot, reply.outcome)
        return self._expect(expected, slot, reply)

    def _expect(self, expected: type[AnyReply], slot: Slot, reply: messages.Reply) -> AnyReply:
        if isinstance(reply, messages.Refused):
            raise BadInput(reply.reason)
        if not isinstance(reply, expected):
            self.end(slot)
            message = f"the worker answered {reply.type!r} where {expected.__name__} was due"
            raise CaseFailed(slot, Failed("crashed", message))
        return reply

    def check_plugins(self, slot: Slot, plugins: Mapping[str, Path], label: str = "plugin") -> None:
        """Has the slot's worker import them. Raises BrokenPlugin for the first that is broken; the
        label is how its sentence begins."""
        for name, path in plugins.items():
            try:
                request = messages.CheckPlugin(name=name, as_backbone=is_backbone(path))
                self.ask(slot, request, messages.Accepted)
            except (BadInput, BrokenAttention) as error:
                raise BrokenPlugin(f"{label} {error}") from None
            except CaseFailed as error:
                raise BrokenPlugin(f"{label} {path.name} cannot be imported: {error}") from None

    def check_classes(self, slot: Slot, cases: Iterable[Case], label: str = "attention") -> None:
        """Has the slot's worker import the classes of packages that the cases run, and bind their
        arguments. Raises BrokenPlugin for the first that cannot be; the label is how its sentence
        begins."""
        distinct = {(tuple(classes_of(case)), case.params): case for case in cases}
        for (names, _), case in distinct.items():
            try:
                if names:
                    self.ask(slot, messages.CheckClass(case=case), messages.Accepted)
            except BadInput as error:
                raise BrokenPlugin(f"{label} {error}") from None
            except CaseFailed as error:
                text = f"{label} {' and '.join(names)} cannot be imported: {error}"
                raise BrokenPlugin(text) from None

    def discard(self, slot: Slot) -> None:
        """Ends the prepared case of a slot whose rival failed, where its worker still runs."""
        if slot in self._children:
            with contextlib.suppress(CaseFailed):
                self.ask(slot, messages.Discard(), messages.Accepted)

    def retry(self, work: Callable[[], Result]) -> Result:
        """Does the work, and once more where a worker crashed: what kills a process from outside
        (the kernel, short of memory) does not come twice, what the case does will."""
        try:
            return work()
        except CaseFailed as error:
            if error.failure.kind != "crashed":
                raise
        return work()

    def started_by(self, slot: Slot) -> set[int]:
        """Ids of the running processes that the slot's worker started, directly or not."""
        return self._children[slot].started() if slot in self._children else set()

    def end(self, slot: Slot) -> str:
        """Ends the slot's worker, where there is one, and all that it started. Returns what does
        not end, as the end of a sentence."""
        child = self._children.pop(slot, None)
        return "" if child is None else child.close()

    def _keep(self, slot: Slot, device: str) -> None:
        """Waits until no other vitbench measures on the device."""
        if self._lock is None or devices.rules(device).is_host:
            return
        reply = self._children[slot].ask(messages.Identify(device=device), START_TIMEOUT_S)
        if isinstance(reply, messages.Identified):
            self._lock.acquire(reply.identity or device)

    def _setup_worker(self, slot: Slot) -> None:
        spec = self._specs[slot]
        for attempt in range(_START_ATTEMPTS):
            try:
                if slot not in self._children:
                    self._children[slot] = Child(spec.target)
                request = spec.setup()
                self._keep(slot, request.device)
                reply = self._children[slot].ask(request, START_TIMEOUT_S)
                break
            except (ChildDied, ChildTimeout) as error:
                self.end(slot)
                if attempt == _START_ATTEMPTS - 1:
                    raise BadInput(f"{spec.problem}: {error}") from None
        try:
            ready = self._expect(messages.Ready, slot, reply)
        except CaseFailed as error:
            raise BadInput(f"{spec.problem}: {error}") from None
        if request.environment and not (ready.environment or {}).keys() >= journal.ENVIRONMENT:
            raise BadInput(f"{spec.problem}: the worker does not say what it runs on")
        self._devices[slot] = ready.device
        spec.on_ready(ready)

    def __enter__(self) -> Pool[Slot]:
        return self

    def __exit__(self, *_: object) -> None:
        for slot in list(self._children):
            with contextlib.suppress(OSError):
                self.end(slot)


def probe(device: str, threads: int | None = None) -> messages.Ready:
    """The device that `auto`, `cuda` or `cuda:1` means here, and the environment.

    Asked of a worker process, so that this one neither imports torch nor touches the GPU.
    Raises BadInput where there is no such device.
    """
    answers: list[messages.Ready] = []
    request = messages.SetUp(device=device, threads=threads, environment=True)
    with Pool({"probe": WorkerSpec(lambda: request, answers.append)}, START_TIMEOUT_S) as pool:
        pool.start("probe")
    return answers[0]


def check_weights(cases: Iterable[Case], setup: messages.SetUp) -> str:
    """What is done to the names of a checkpoint to fit the backbones of the cases; "" for nothing.
    Raises BadInput where it does not fit.
    """
    distinct = {(case.backbone, case.params): case for case in cases if case.backbone}
    note = ""
    with Pool({"weights": WorkerSpec(lambda: setup)}, START_TIMEOUT_S) as pool:
        for case in distinct.values():
            try:
                request = messages.CheckWeights(case=case)
                note = pool.ask("weights", request, messages.Accepted).note
            except CaseFailed as error:
                raise BadInput(f"weights of {case.backbone} cannot be checked: {error}") from None
    return note
