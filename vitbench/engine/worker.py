"""The worker process: one request in, one reply out, as JSON lines over two pipes (messages.py).

    python -m vitbench.engine.worker READ_FD WRITE_FD

The pipes are not stdin and stdout, so that a mechanism that prints cannot disturb them.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import itertools
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, TextIO, assert_never

from attentions import BrokenAttention
from vitbench import devices, runtimes
from vitbench.cases.case import Case
from vitbench.engine import messages, passes, prepared_case
from vitbench.errors import BadInput, StorageFull
from vitbench.instruments import host
from vitbench.results.outcome import Failed, Measured, Outcome
from vitbench.subjects import build as subjects
from vitbench.subjects import describe, settings, spectra
from vitbench.subjects import plugins as own
from vitbench.subjects.backbones.weights import BadWeights


class Worker:
    """Answers requests, one at a time; the first is SetUp."""

    _setup: messages.SetUp
    _device: devices.Device
    _threads: int
    _settings: settings.Settings
    _idle_state: list[Mapping[str, Any]]  # what others did before the case, and after it

    def __init__(self) -> None:
        self._prepared: prepared_case.PreparedCase | None = None

    def answer(self, request: messages.Request) -> messages.Reply:
        """The reply to one request."""
        match request:
            case messages.SetUp():
                return self._setup_worker(request)
            case messages.Identify():
                return self._identify(request.device)
            case (
                messages.CheckWeights()
                | messages.CheckPlugin()
                | messages.CheckClass()
                | messages.Describe()
                | messages.FindReasons()
                | messages.ReadSpectra()
            ):
                return self._inquire(request)
            case messages.Convert(case=case):
                return self._convert(case)
            case messages.Measure():
                self._configure()
                outcome = passes.measure(
                    request.case,
                    request.rule,
                    self._setup.plugins,
                    with_facts=request.with_facts,
                    weights=self._setup.weights,
                    calibration=self._setup.calibration,
                    artifacts=self._setup.artifacts,
                )
                self._look_at_others()
                return self._finished(outcome)
            case messages.PrepareCase():
                return self._prepare(request)
            case messages.Sample():
                return self._sample(request.seconds)
            case messages.Finish():
                assert self._prepared is not None
                outcome, self._prepared = self._prepared.finish(), None
                return self._finished(outcome)
            case messages.Discard():
                self._discard()
                self._device.release()
                return messages.Accepted()
            case _:
                assert_never(request)

    def _identify(self, device: str) -> messages.Reply:
        try:
            return messages.Identified(identity=devices.connect(device).identity)
        except (BadInput, devices.Unreadable) as error:
            return messages.Refused(reason=str(error))

    def _setup_worker(self, request: messages.SetUp) -> messages.Reply:
        """Device, threads and memory of the process, and what it runs on."""
        if request.memory_limit_bytes is not None:
            host.limit_memory(request.memory_limit_bytes)
        try:
            self._device = device = devices.connect(request.device)
            self._idle_state = [device.idle()]  # before anything of ours runs there
            device.start(request.workers)
        except BadInput as error:
            return messages.Refused(reason=str(error))
        self._setup, self._threads = request, request.threads or host.usable_cores()
        self._device.autotunes = request.autotune
        self._device.configure(self._threads)
        self._settings = settings.read()
        allocator = device.set_allocator(request.allocator)
        facts = ceilings = None
        if request.environment:
            facts = device.fingerprint(request.plugins) | {"allocator": allocator}
            facts["packages"] = {**facts["packages"], **runtimes.versions()}
        if request.ceilings:
            dtypes = subjects.dtypes_computed(device, request.ceilings)
            ceilings, reasons = device.ceilings(dtypes)
            if facts is not None and reasons:
                facts["ceilings_unmeasured"] = list(reasons)
        return messages.Ready(device=device.name, environment=facts, ceilings=ceilings)

    def _configure(self) -> None:
        """Sets again what an earlier mechanism may have changed."""
        settings.restore(self._settings)
        self._device.configure(self._threads)

    def _inquire(self, request: messages.Inquiry) -> messages.Reply:
        """What is asked before anything is measured."""
        plugins, weights = self._setup.plugins, self._setup.weights
        try:
            match request:
                case messages.CheckWeights(case=case):
                    done: list[str] = []
                    subjects.build_module(case, plugins, case.impl, weights, done.append)
                    return messages.Accepted(note="".join(done))
                case messages.CheckPlugin():
                    own.load(request.name, plugins, as_backbone=request.as_backbone)
                    return messages.Accepted()
                case messages.CheckClass(case=case):
                    subjects.check_classes(case, plugins)
                    return messages.Accepted()
                case messages.Describe(question=question):
                    return messages.Described(facts=describe.describe(question, plugins))
                case messages.FindReasons():
                    reasons = describe.reasons_against(request.cases, plugins)
                    return messages.Reasons(reasons={c.id: text for c, text in reasons.items()})
                case messages.ReadSpectra(case=case):
                    assert self._setup.calibration is not None
                    images, layers = self._setup.calibration, request.layers
                    read = spectra.read(case, plugins, weights, images, layers)
                    return messages.Spectra(spectra=tuple(read))
                case _:
                    assert_never(request)
        except (BadInput, BadWeights, BrokenAttention, subjects.Unsupported) as reason:
            return messages.Refused(reason=str(reason))

    def _convert(self, case: Case) -> messages.Reply:
        self._configure()
        assert self._setup.artifacts is not None
        try:
            failed = passes.convert(
                case,
                self._setup.plugins,
                self._setup.artifacts,
                self._setup.weights,
                self._setup.calibration,
            )
        except StorageFull as error:
            return messages.Refused(reason=str(error))
        return messages.Accepted() if failed is None else self._finished(failed)

    def _prepare(self, request: messages.PrepareCase) -> messages.Reply:
        self._configure()
        prepared = prepared_case.prepare(
            request.case,
            request.rule,
            self._setup.plugins,
            with_facts=request.with_facts,
            weights=self._setup.weights,
            calibration=self._setup.calibration,
            artifacts=self._setup.artifacts,
        )
        if isinstance(prepared, Failed):
            return self._finished(prepared)
        self._prepared = prepared
        self._device.release()  # the other side is prepared next, beside what this one needs
        return messages.Accepted()

    def _sample(self, seconds: float) -> messages.Reply:
        assert self._prepared is not None
        samples_s = self._prepared.sample(seconds)
        if isinstance(samples_s, Failed):
            self._discard()
            return self._finished(samples_s)
        if self._device.keeps_much():
            self._device.release()
        return messages.Sampled(samples_s=tuple(samples_s))

    def _discard(self) -> None:
        if self._prepared is not None:
            self._prepared.discard()
            self._prepared = None

    def _look_at_others(self) -> None:
        """After a case that was alone on the device."""
        self._idle_state = [self._idle_state[-1], self._device.idle()]

    def _finished(self, outcome: Outcome) -> messages.Reply:
        if isinstance(outcome, Measured):
            outcome = dataclasses.replace(outcome, state={**outcome.state, **self._others()})
        # A device that the case ruined raises whatever it is asked next; its process is ended.
        kind = outcome.kind if isinstance(outcome, Failed) else None
        if kind not in devices.rules(self._device.name).ruined_by:
            self._device.release()
        return messages.Finished(outcome=outcome)

    def _others(self) -> dict[str, Any]:
        """The highest of the readings, where there is any."""
        readings: dict[str, list[Any]] = {}
        for name, value in itertools.chain(*(state.items() for state in self._idle_state)):
            readings.setdefault(name, []).append(value)
        seen = {name: [v for v in values if v is not None] for name, values in readings.items()}
        return {name: max(values, default=None) for name, values in seen.items()}


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answers requests until there are no more. Raises MalformedMessage, which ends the worker."""
    process = os.getpid()
    worker = Worker()
    for line in requests:
        reply = worker.answer(messages.read_request(line))
        if os.getpid() != process:
            os._exit(0)  # a copy that a mechanism forked: it came back here, and must not answer
        replies.write(messages.to_line(reply))
        replies.flush()


def _die_with_parent() -> None:
    """Linux: this process gets SIGKILL when the runner is gone, however it went."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


def main(read_fd: int, write_fd: int) -> None:
    """Serves the runner over two inherited pipes."""
    _die_with_parent()
    gc.collect()
    gc.freeze()  # what was imported stays: looking through it took 50 ms before every reading
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to answer
    for fd in (read_fd, write_fd):
        os.set_inheritable(fd, False)  # what a mechanism starts must not hold the pipes open
    with open(read_fd, encoding="utf-8") as requests, open(write_fd, "w", encoding="utf-8") as out:
        serve(requests, out)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
