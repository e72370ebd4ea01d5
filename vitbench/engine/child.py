"""The runner's end of a worker process: starts it, asks it, ends it and all that it started."""

from __future__ import annotations

import contextlib
import os
import platform
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil

from vitbench.engine import messages
from vitbench.engine.messages import MalformedMessage, Reply, Request
from vitbench.errors import BadInput

# What Python runs as the worker: not from the current folder, whose files may be called anything.
WORKER: tuple[str, ...] = ("-P", "-m", "vitbench.engine.worker")

# Where a worker measures another tree or in another Python: our measuring code, theirs measured.
_ENTRY = Path(__file__).parent / "entry.py"

_OUTPUT_TAIL_BYTES = 4096
_OUTPUT_LIMIT_BYTES = 64 * 2**20  # a mechanism that prints without end must not fill the disk
# How long the end of a killed process is waited for.
_END_S = 5.0
# In the environment of a worker, and so of all that it starts, wherever that ends up.
_MARK = "VITBENCH_WORKER"


def _signal_name(number: int) -> str:
    """SIGSEGV; real-time signals have numbers only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class ChildDied(RuntimeError):
    """The worker ended by itself. The message says how, and what it printed last."""


class ChildTimeout(RuntimeError):
    """The worker did not answer in time."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the code that is measured comes from.

    python  the interpreter, and with it torch and every other package; None: this one
    root    the tree whose attentions, backbones and modules are measured; None: those installed
    """

    python: str | None = None
    root: Path | None = None

    def command(self) -> list[str]:
        """The start of a worker's command line; the numbers of its two pipes follow."""
        python = self.python or sys.executable
        if self == Target():
            return [python, *WORKER]
        engine = Path(__file__).parents[2]
        return [python, "-P", str(_ENTRY), str(engine), str(self.root or engine)]


def _pipe(opened: contextlib.ExitStack) -> tuple[int, int]:
    """The ends of a new pipe, which the stack closes."""
    ends = os.pipe()
    for end in ends:
        opened.callback(os.close, end)
    return ends


def check_system() -> None:
    """Raises BadInput where a worker cannot be started and ended with all that it started."""
    if not hasattr(os, "killpg"):
        raise BadInput(
            f"vitbench measures on Linux and macOS, and this is {platform.system()}: measure in "
            "WSL or a container; tables, charts and comparisons of runs work here"
        )


class Child:
    """A worker process. Raises ChildDied where it cannot be started, BadInput where none can be.

    What it prints goes to a file, of which a tail is kept for messages.
    """

    def __init__(self, target: Target | None = None) -> None:
        check_system()
        self._mark = uuid.uuid4().hex
        try:
            self._start(target or Target())
        except OSError as error:  # too many open files or processes, no folder for temporary files
            raise ChildDied(f"the worker cannot be started: {error.strerror or error}") from None

    def _start(self, target: Target) -> None:
        """Raises OSError, and leaves no file open then."""
        with contextlib.ExitStack() as opened:
            self._output = opened.enter_context(tempfile.TemporaryFile())
            request_read, request_write = _pipe(opened)
            self._replies, reply_write = _pipe(opened)
            command = [*target.command(), str(request_read), str(reply_write)]
            marks = {"KINETO_LOG_LEVEL": "99", "PYTHONUNBUFFERED": "1", _MARK: self._mark}
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                cwd=target.root,
                pass_fds=(request_read, reply_write),
                start_new_session=True,  # a group of its own, to be ended as one
                env=os.environ | marks,
            )
            opened.pop_all()  # they stay open, but for the worker's own ends
        os.close(request_read)
        os.close(reply_write)
        self._requests = os.fdopen(request_write, "w", encoding="utf-8")
        self._buffer = b""

    def ask(self, request: Request, timeout_s: float) -> Reply:
        """The reply to one request. Raises ChildDied or ChildTimeout."""
        line = self.exchange(messages.to_line(request), timeout_s)
        try:
            return messages.read_reply(line)
        except MalformedMessage as error:  # something else wrote into the pipe
            raise ChildDied(f"the worker's answer cannot be read: {error}") from None

    def exchange(self, line: str, timeout_s: float) -> bytes:
        """The line that the worker answers a line with. Raises ChildDied or ChildTimeout."""
        try:
            self._requests.write(line)
            self._requests.flush()
        except OSError:
            raise ChildDied(self._how_it_ended()) from None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if selector.select(timeout=0.2):
                    data = os.read(self._replies, 2**16)
                    if not data:
                        raise ChildDied(self._how_it_ended())
                    self._buffer += data
                elif self._process.poll() is not None:
                    # It may have answered between the two looks; a forked child may hold the
                    # pipe open, so that no end of file comes.
                    if selector.select(timeout=0):
                        continue
                    raise ChildDied(self._how_it_ended())
                elif time.monotonic() > deadline:
                    raise ChildTimeout(f"no answer within {timeout_s:g} s")
                if os.fstat(self._output.fileno()).st_size > _OUTPUT_LIMIT_BYTES:
                    self._output.truncate(0)
        reply, _, self._buffer = self._buffer.partition(b"\n")
        return reply

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "the worker closed its pipes"
        how = f"ended with exit status {code}"
        if code < 0:
            how = f"was ended by {_signal_name(-code)}"
        size = os.fstat(self._output.fileno()).st_size
        start = max(0, size - _OUTPUT_TAIL_BYTES)
        tail = os.pread(self._output.fileno(), _OUTPUT_TAIL_BYTES, start)
        lines = tail.decode(errors="replace").replace("\0", "").strip().splitlines()
        last_output = f"; last output: {lines[-1].strip()[:300]}" if lines else ""
        return f"the worker {how}{last_output}"

    def close(self) -> str:
        """Ends the worker and everything that it started, and waits until they are gone.

        Not for ever: a process that waits inside a driver outlives its killing. Returns what is
        left, as the end of a sentence; "" for nothing.
        """
        family = self._family()
        with contextlib.suppress(OSError):
            self._requests.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=_END_S)
        left = ""
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            left = f"; its process {self._process.pid} was killed and does not end"
        os.close(self._replies)
        self._output.close()
        return left

    def started(self) -> set[int]:
        """Ids of the processes that the worker started, directly or not, and that still run."""
        running = set()
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    running.add(process.pid)
        return running

    def _family(self) -> list[psutil.Process]:
        """Descendants, and what is left of those whose parents are gone: they keep our session,
        or at least our mark."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self._process.pid).children(recursive=True)
        known = {self._process.pid, *(process.pid for process in family)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.pid not in known and self._is_ours(process):
                    family.append(process)
        return family

    def _is_ours(self, process: psutil.Process) -> bool:
        is_in_session = os.getsid(process.pid) == self._process.pid
        return is_in_session or process.environ().get(_MARK) == self._mark
