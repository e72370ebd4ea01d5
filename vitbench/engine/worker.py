"""The child process: one request in, one reply out, as JSON lines over two pipes.

    python -m vitbench.engine.worker READ_FD WRITE_FD

The pipes are not stdin and stdout, so that a mechanism that prints cannot disturb them. A
request is {"do": "environment" | "measure", ...}; the reply to "measure" is an Outcome. A case can
also be kept: "hold" it, "turn" after turn gives a latency, "release" replies with the Outcome.
"fill" says whether a checkpoint fits.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitbench import devices
from vitbench.cases.case import Case
from vitbench.engine import passes as measurement
from vitbench.engine import prepared_case as held
from vitbench.errors import BadInput
from vitbench.instruments import host
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Failed, Measured, Outcome, outcome_to_dict
from vitbench.subjects import build as subjects
from vitbench.subjects.backbones.weights import BadWeights


class Worker:
    """Answers requests, one at a time."""

    def __init__(self) -> None:
        self._plugins: dict[str, Path] = {}
        self._idle: dict[str, Any] = {}
        self._device: devices.Device | None = None
        self._threads = host.usable_cores()
        self._held: held.Held | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one request."""
        if request["do"] == "environment":
            return self._settle(request)
        if request["do"] == "turn":
            return self._turn(request["seconds"])
        if request["do"] == "release":
            return self._release()
        if request["do"] == "fill":
            return self._fill(Case.from_dict(request["case"]))
        assert self._device is not None
        self._drop()  # its rival was lost before it was released
        self._device.configure(self._threads)  # a mechanism may have changed it for the next
        case = Case.from_dict(request["case"])
        rule = None if request["rule"] is None else TimingRule(**request["rule"])
        facts = request["with_facts"]
        if request["do"] == "hold":
            assert rule is not None
            kept = held.hold(case, rule, self._plugins, with_facts=facts)
            if isinstance(kept, Failed):
                return outcome_to_dict(kept)
            self._held = kept
            return {"held": True}
        outcome = measurement.measure(case, rule, self._plugins, with_facts=facts)
        return self._told(outcome)

    def _settle(self, request: Mapping[str, Any]) -> dict[str, Any]:
        reply = _environment(request)
        self._plugins = {name: Path(path) for name, path in request["plugins"].items()}
        self._threads = _threads(request)
        if "refused" not in reply:
            self._device = devices.connect(reply["device"])
            self._idle = self._device.idle()
        return reply

    def _fill(self, case: Case) -> dict[str, Any]:
        """Whether the case's checkpoint fits its backbone."""
        try:
            subjects.build_module(case, self._plugins, case.impl)
        except (BadWeights, subjects.Unsupported) as reason:
            return {"refused": str(reason)}
        return {"filled": True}

    def _turn(self, seconds: float) -> dict[str, Any]:
        assert self._held is not None
        samples_s = self._held.turn(seconds)
        if isinstance(samples_s, Failed):
            self._drop()
            return outcome_to_dict(samples_s)
        return {"samples_s": samples_s}

    def _drop(self) -> None:
        if self._held is not None:
            self._held.drop()
            self._held = None

    def _release(self) -> dict[str, Any]:
        assert self._held is not None
        outcome, self._held = self._held.release(), None
        return self._told(outcome)

    def _told(self, outcome: Outcome) -> dict[str, Any]:
        if isinstance(outcome, Measured):
            outcome = dataclasses.replace(outcome, state={**outcome.state, **self._idle})
        reply = outcome_to_dict(outcome)
        assert self._device is not None
        self._device.release()
        return reply


def serve(requests: Any, replies: Any) -> None:
    """Answers requests until there are no more."""
    process = os.getpid()
    worker = Worker()
    for line in requests:
        reply = worker.answer(json.loads(line))
        if os.getpid() != process:
            os._exit(0)  # a copy that a mechanism forked: it came back here, and must not answer
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _environment(request: Mapping[str, Any]) -> dict[str, Any]:
    """Settles the process (device, threads, memory limit) and tells what it runs on."""
    if request.get("memory_limit_bytes"):
        _limit_memory(int(request["memory_limit_bytes"]))
    try:
        device = devices.connect(request["device"])
    except BadInput as error:
        return {"refused": str(error)}
    device.configure(_threads(request))
    allocator = device.set_allocator(request.get("allocator", "steady"))
    reply: dict[str, Any] = {"device": device.name}
    if request["fingerprint"]:
        plugins = {name: Path(path) for name, path in request["plugins"].items()}
        found = device.fingerprint(plugins)
        reply["environment"] = found | {"allocator": allocator}
    if request["ceilings"]:
        reply["ceilings"] = device.ceilings(request["ceilings"])
    return reply


def _threads(request: Mapping[str, Any]) -> int:
    return request["threads"] or host.usable_cores()


def _limit_memory(nbytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (nbytes, nbytes))


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
