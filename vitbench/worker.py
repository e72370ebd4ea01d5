"""The child process: one request in, one reply out, as JSON lines over two pipes.

    python -m vitbench.worker READ_FD WRITE_FD

The pipes are not stdin and stdout, so that a mechanism that prints cannot disturb them. A
request is {"do": "environment" | "measure", ...}; the reply to "measure" is an Outcome.
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

from vitbench import measurement
from vitbench.case import Case
from vitbench.instruments import allocator, environment, host
from vitbench.instruments.timing import TimingRule
from vitbench.record import Measured, outcome_to_dict


def serve(requests: Any, replies: Any) -> None:
    """Answers requests until there are no more."""
    worker = os.getpid()
    plugins: dict[str, Path] = {}
    idle: dict[str, Any] = {}
    threads = host.usable_cores()
    for line in requests:
        request = json.loads(line)
        if request["do"] == "environment":
            reply = _environment(request)
            plugins = {name: Path(path) for name, path in request["plugins"].items()}
            threads = _threads(request)
            idle = environment.idle_state(reply.get("device", "cpu"))
        else:
            environment.configure(threads)  # a mechanism may have changed it for the next
            outcome = measurement.measure(
                Case.from_dict(request["case"]),
                None if request["rule"] is None else TimingRule(**request["rule"]),
                plugins,
                with_facts=request["with_facts"],
            )
            if isinstance(outcome, Measured):
                outcome = dataclasses.replace(outcome, state={**outcome.state, **idle})
            reply = outcome_to_dict(outcome)
            allocator.give_back()
        if os.getpid() != worker:
            os._exit(0)  # a copy that a mechanism forked: it came back here, and must not answer
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _environment(request: Mapping[str, Any]) -> dict[str, Any]:
    """Settles the process (device, threads, memory limit) and tells what it runs on."""
    if request.get("memory_limit_bytes"):
        _limit_memory(int(request["memory_limit_bytes"]))
    environment.configure(_threads(request))
    memory = allocator.settle(request.get("allocator", "steady"))
    try:
        device = environment.resolve_device(request["device"])
    except LookupError as error:
        return {"refused": str(error)}
    reply: dict[str, Any] = {"device": device}
    if request["fingerprint"]:
        plugins = {name: Path(path) for name, path in request["plugins"].items()}
        reply["environment"] = environment.fingerprint(device, plugins) | {"allocator": memory}
    if request["ceilings"]:
        reply["ceilings"] = environment.ceilings(device, tuple(request["ceilings"]))
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
