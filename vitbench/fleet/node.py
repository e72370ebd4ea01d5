"""A node: measures cases on its machine for a head elsewhere, with the workers of any run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbench import runtimes
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.engine import planning
from vitbench.engine.case_worker import CaseWorker
from vitbench.engine.device_lock import DeviceLock
from vitbench.engine.messages import Ready, SetUp
from vitbench.engine.pool import WorkerSpec
from vitbench.errors import BadInput
from vitbench.fleet import parcels, versions
from vitbench.fleet.scratch import Scratch
from vitbench.instruments import host
from vitbench.instruments.timing import TimingRule
from vitbench.results.folder import ARTIFACTS, artifact_of
from vitbench.results.outcome import Ceilings, Outcome


@dataclass(frozen=True, slots=True)
class Joined:
    """The node is ready to measure, and what it runs on."""

    environment: Mapping[str, Any]
    ceilings: Ceilings | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The node cannot measure; the reason, as a sentence."""

    reason: str


@dataclass(frozen=True, slots=True)
class Work:
    """A case to measure in a round. The rule is None where it is not timed; `is_control`: it is
    measured for comparing nodes."""

    case: Case
    round_index: int
    rule: TimingRule | None
    with_facts: bool
    is_control: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What work gave. `artifact`: what the module was converted into, where that was done now."""

    outcome: Outcome
    artifact: bytes | None = None


def hello(packages: Sequence[str]) -> dict[str, Any]:
    """What a machine is, before it is reserved: plain values, for a head of any version."""
    return {"versions": versions.versions(packages), "model": host.cpu_facts()["model"]}


class Node:
    """Answers one request at a time; `end` may come beside it.

    new_worker  what measures; a test has its own
    """

    def __init__(self, new_worker: Callable[..., CaseWorker] = CaseWorker) -> None:
        self._new_worker = new_worker
        self._scratch = Scratch()
        self._artifacts = self._scratch.path / ARTIFACTS
        self._lock = DeviceLock()
        self._worker: CaseWorker | None = None
        self._round: int | None = None
        self._ready: Ready | None = None

    def lacking(self, digests: Sequence[str]) -> list[str]:
        """Those of the parcels that this machine does not have."""
        return [digest for digest in digests if not (_kept() / digest).is_dir()]

    def join(self, plan: bytes, names: Mapping[str, str], *contents: bytes) -> Joined | Refused:
        """Takes a plan, and starts a worker for it.

        plan      as JSON
        names     digests of the plan's parcels
        contents  of those that were lacking
        """
        for content in contents:
            parcels.unpack(content, _kept() / parcels.digest(content))
        folders = {name: _kept() / digest for name, digest in names.items()}
        try:
            self._plan = self._own(parcels.localized(Plan.from_dict(json.loads(plan)), folders))
            worker = self._worker_of(None)
            worker.start()
            worker.check_code()
        except BadInput as error:
            return Refused(str(error))
        assert self._ready is not None
        return Joined(self._ready.environment or {}, self._ready.ceilings)

    def _own(self, plan: Plan) -> Plan:
        """With the limit of memory that this machine has. Raises BadInput."""
        planning.check_machine(plan.threads, plan.memory_limit_bytes)
        if plan.calibration is not None:
            plan.calibration.check()
        if plan.memory_limit_bytes is not None:
            return plan
        limit = planning.default_memory_limit(plan.device)
        return dataclasses.replace(plan, memory_limit_bytes=limit)

    def measure(self, work: Work, artifact: bytes | None = None) -> Done | Refused:
        """Carries work out. The artifact is what another node converted the module into."""
        made = None
        try:
            if runtimes.load(work.case.runtime).RULES.converts:
                place = artifact_of(work.case, self._artifacts)
                if not place.is_dir() and artifact is not None:
                    parcels.unpack(artifact, place)
                elif not place.is_dir():
                    with self._new() as worker:
                        if (failed := worker.convert(work.case)) is not None:
                            return Done(failed)
                    made = parcels.pack_folder(place)
            worker = self._worker_of(work.round_index)
            outcome = worker.measure(work.case, work.rule, with_facts=work.with_facts)
        except BadInput as error:
            return Refused(str(error))
        return Done(outcome, made)

    def end(self) -> None:
        """Ends the worker and all that it started."""
        with contextlib.suppress(OSError):
            if self._worker is not None:
                self._worker.end()
        self._lock.__exit__()
        self._scratch.remove()

    def _worker_of(self, round_index: int | None) -> CaseWorker:
        """A fresh one for each round; the first round has the one that joined."""
        if self._worker is None or self._round not in (None, round_index):
            if self._worker is not None:
                self._worker.end()
            self._worker = self._new()
        self._round = round_index
        return self._worker

    def _new(self) -> CaseWorker:
        return self._new_worker(self._plan, WorkerSpec(self._setup, self._note), self._lock)

    def _setup(self) -> SetUp:
        is_new = self._ready is None
        dtypes = tuple(dict.fromkeys(case.tensor_dtype for case in self._plan.cases))
        return SetUp.of(
            self._plan,
            artifacts=self._artifacts,
            environment=is_new,
            ceilings=dtypes if is_new and self._plan.timed else (),
        )

    def _note(self, ready: Ready) -> None:
        self._ready = self._ready or ready


def _kept() -> Path:
    """Where parcels are kept for later runs, each under its digest."""
    folder = Path(tempfile.gettempdir()) / f"vitbench-parcels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
