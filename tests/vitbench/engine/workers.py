"""Scripted workers in place of processes, for runs and for comparisons."""

from __future__ import annotations

from pathlib import Path

from tests.vitbench.examples import ceilings, environment
from vitbench.engine import messages
from vitbench.engine.child import Target


class Workers:
    """Makes workers; what they answer to requests after the first is for a subclass to say.

    started   of each worker that was made, the folder that it measures
    alive     workers that were not closed; most_alive: the most that there were at a time
    starting  faults of the next workers at their start
    refused   the sentence with which they refuse to start
    shared_by   how many workers each that was set up is told to be one of
    identified  numbers of the workers that were asked which device a name means
    artifacts   the folder that each worker that was set up is given for them, by its number
    identity    of the device that they say they measure on
    left      processes that a worker is found to have left running
    device    that they say they measure on
    """

    def __init__(self) -> None:
        self.environment = environment()
        self.started: list[str] = []
        self.alive = self.most_alive = 0
        self.starting: list[BaseException] = []
        self.refused: str | None = None
        self.left: set[int] = set()
        self.identified: list[int] = []
        self.shared_by: list[int] = []
        self.artifacts: dict[int, Path | None] = {}
        self.device = "cpu"
        self.identity = "GPU-1234"

    def make(self, target: Target) -> Worker:
        """In place of Child."""
        self.started.append("" if target.root is None else target.root.name)
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        return Worker(self, len(self.started), self.started[-1])

    def answer(self, worker: Worker, request: messages.Request) -> messages.Reply:
        """The reply of a worker that was set up."""
        raise NotImplementedError


class Worker:
    """One scripted worker: requests and replies pass through their lines."""

    def __init__(self, workers: Workers, number: int, side: str) -> None:
        self.workers, self.number, self.side = workers, number, side

    def ask(self, request: messages.Request, timeout_s: float) -> messages.Reply:
        request = messages.read_request(messages.to_line(request))
        return messages.read_reply(messages.to_line(self._answer(request)))

    def _answer(self, request: messages.Request) -> messages.Reply:
        workers = self.workers
        if isinstance(request, messages.Identify):
            workers.identified.append(self.number)
            return messages.Identified(identity=workers.identity)
        if not isinstance(request, messages.SetUp):
            return workers.answer(self, request)
        workers.shared_by.append(request.workers)
        workers.artifacts[self.number] = request.artifacts
        if workers.starting:
            raise workers.starting.pop(0)
        if workers.refused is not None:
            return messages.Refused(reason=workers.refused)
        return messages.Ready(
            device=workers.device, environment=workers.environment, ceilings=ceilings()
        )

    def started(self) -> set[int]:
        return self.workers.left

    def close(self) -> str:
        self.workers.left = set()
        self.workers.alive -= 1
        return ""
