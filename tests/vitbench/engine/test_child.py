"""The runner's end of a worker: replies, deaths, silence, floods of output and what lingers.

The worker is a stand-in of a few lines that starts at once; the real one is in test_worker.py
and test_cli.py.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from vitbench.engine import child as children
from vitbench.engine.child import Child, ChildDied, ChildTimeout
from vitbench.engine.messages import Discard, Ready, SetUp

STAND_IN = f"""#!{sys.executable} -IS
import json, os, signal, sys, time

requests = open(int(sys.argv[-2]), encoding="utf-8")
replies = open(int(sys.argv[-1]), "w", encoding="utf-8")


def reply(data):
    replies.write(json.dumps(data) + "\\n")
    replies.flush()


def linger():
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    return pid


for line in requests:
    request = json.loads(line)
    do = request.get("do", "echo")
    if do == "echo":
        reply(request)
    elif do == "pid":
        reply({{"pid": os.getpid()}})
    elif do == "sleep":
        time.sleep(600)
    elif do == "end":
        print(request.get("words", ""), flush=True)
        os._exit(request["status"])
    elif do == "signal":
        os.kill(os.getpid(), request["signal"])
        time.sleep(600)
    elif do == "print":
        for _ in range(request["megabytes"]):
            print("x" * 2**20, flush=True)
        print("the end", flush=True)
        reply({{"printed": request["megabytes"]}})
    elif do == "fork":
        reply({{"pid": linger()}})
    elif do == "fork and end":
        pid = linger()
        reply({{"pid": pid}})
        os._exit(3)
    elif do == "close":
        requests.close()
        replies.close()
        time.sleep(600)
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Child]]:
    """Starts workers that are the stand-in, and ends them."""
    path = tmp_path / "stand_in"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    monkeypatch.setattr(children, "sys", SimpleNamespace(executable=str(path)))
    started: list[Child] = []

    def begin() -> Child:
        started.append(Child())
        return started[-1]

    yield begin
    for child in started:
        if not child._output.closed:
            child.close()


def ask(child: Child, timeout_s: float = 30, **request: Any) -> Any:
    """The reply to a request, both as JSON: the stand-in has messages of its own."""
    return json.loads(child.exchange(json.dumps(request) + "\n", timeout_s))


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet collected does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_requests_and_replies(start: Callable[[], Child]) -> None:
    """Each request has its reply, of any size, with every character."""
    child = start()
    for words in ("a", "é\n\u2028", "x" * 10**6):
        assert ask(child, do="echo", words=words) == {"do": "echo", "words": words}


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"do": "end", "status": 0}, "ended with exit status 0"),
        ({"do": "end", "status": 139}, "ended with exit status 139"),
        (
            {"do": "end", "status": 1, "words": "Traceback\n  ValueError: no\n"},
            "ended with exit status 1; last output: ValueError: no",
        ),
        # A message quotes the last line, not a megabyte of it.
        (
            {"do": "end", "status": 1, "words": "y" * 10**6},
            f"ended with exit status 1; last output: {'y' * 300}",
        ),
        ({"do": "signal", "signal": int(signal.SIGSEGV)}, "was ended by SIGSEGV"),
        ({"do": "signal", "signal": int(signal.SIGKILL)}, "was ended by SIGKILL"),
        pytest.param(
            {"do": "signal", "signal": 35},
            "was ended by signal 35",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="has no real-time signals"),
        ),
    ],
)
def test_deaths(start: Callable[[], Child], request_: dict[str, Any], words: str) -> None:
    """How it ended, and what it printed last, are in the message."""
    with pytest.raises(ChildDied) as caught:
        ask(start(), **request_)
    assert str(caught.value) == f"the worker {words}"


def test_a_worker_that_is_dead_already(start: Callable[[], Child]) -> None:
    """A request to it is a death, not a broken pipe."""
    child = start()
    pid = ask(child, do="pid")["pid"]
    os.kill(pid, signal.SIGKILL)
    while alive(pid):
        time.sleep(0.01)
    with pytest.raises(ChildDied, match="ended by SIGKILL"):
        ask(child, do="echo")


def test_silence_is_a_timeout(start: Callable[[], Child]) -> None:
    """A worker that does not answer is given up, and is gone after close."""
    child = start()
    pid = ask(child, do="pid")["pid"]
    with pytest.raises(ChildTimeout, match=r"no answer within 0\.3 s"):
        ask(child, 0.3, do="sleep")
    child.close()
    assert not alive(pid)


def test_a_worker_that_outlives_its_killing(
    start: Callable[[], Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that waits inside a driver does: it is not waited for for ever, and is named."""
    child = start()
    pid = ask(child, do="pid")["pid"]
    with pytest.raises(ChildTimeout):
        ask(child, 0.1, do="sleep")
    with monkeypatch.context() as patch:
        patch.setattr(children, "_END_S", 0.1)
        patch.setattr("vitbench.engine.child.os.killpg", lambda *_: None)
        guard = threading.Timer(10.0, os.kill, (pid, signal.SIGKILL))
        guard.start()
        left = child.close()
        guard.cancel()
    assert left == f"; its process {pid} was killed and does not end"
    assert alive(pid)
    os.killpg(pid, signal.SIGKILL)
    child._process.wait()


def test_megabytes_of_output(start: Callable[[], Child], monkeypatch: pytest.MonkeyPatch) -> None:
    """They block neither side, do not fill the disk, and the last line is known."""
    monkeypatch.setattr(children, "_OUTPUT_LIMIT_BYTES", 2**21)
    child = start()
    assert ask(child, 60, do="print", megabytes=16) == {"printed": 16}
    ask(child, do="echo")
    assert os.fstat(child._output.fileno()).st_blocks * 512 <= 8 * 2**20
    with pytest.raises(ChildDied, match="last output: the end"):
        ask(child, do="end", status=1, words="the end")


def test_a_fork_that_lingers_is_ended(start: Callable[[], Child]) -> None:
    """Closing ends the worker and its descendants."""
    child = start()
    worker = ask(child, do="pid")["pid"]
    fork = ask(child, do="fork")["pid"]
    assert alive(worker)
    assert alive(fork)
    child.close()
    assert not alive(worker)
    assert not alive(fork)


def test_a_fork_that_outlives_its_parent(start: Callable[[], Child]) -> None:
    """It holds the pipes open; the death is seen all the same, and the orphan is ended."""
    child = start()
    fork = ask(child, do="fork and end")["pid"]
    with pytest.raises(ChildDied, match="exit status 3"):
        ask(child, do="echo")
    child.close()
    assert not alive(fork)


def test_a_worker_that_closes_its_pipes(start: Callable[[], Child]) -> None:
    """It lives on but can answer no more: that is a death, and nobody waits for its end."""
    child = start()
    pid = ask(child, do="pid")["pid"]
    waited = threading.Event()

    def give_up() -> None:
        waited.set()
        os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(4.0, give_up)
    timer.start()
    try:
        with pytest.raises(ChildDied):
            ask(child, do="close")
    finally:
        timer.cancel()
    assert not waited.is_set()


def test_the_worker_is_left_alone_by_the_keyboard(start: Callable[[], Child]) -> None:
    """It is in a session of its own: Ctrl-C reaches the runner, which decides."""
    pid = ask(start(), do="pid")["pid"]
    assert os.getsid(pid) == pid
    assert os.getsid(pid) != os.getsid(0)


def test_the_real_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin random.py in the working directory is not the standard library's random to it; a
    request that it does not know ends it with a sentence."""
    for name in ("random", "json", "attentions"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not this one')\n")
    monkeypatch.chdir(tmp_path)
    with contextlib.closing(Child()) as child:
        assert child.ask(SetUp(device="cpu", threads=1), 300) == Ready(device="cpu")
        with pytest.raises(ChildDied, match=r"exit status 1; .*this is no request: .*'measur'"):
            child.exchange('{"type": "measur"}\n', 300)


def test_a_reply_that_is_none(start: Callable[[], Child]) -> None:
    """Something else wrote into the pipe: the worker counts as dead, and a sentence says why."""
    with pytest.raises(ChildDied, match=r"answer cannot be read: this is no reply: .*'discard'"):
        start().ask(Discard(), 30)


def test_no_descriptor_is_left(start: Callable[[], Child]) -> None:
    """Workers come and go; the runner's pipes and files go with them."""
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("this platform does not list descriptors")
    start().close()
    before = len(list(folder.iterdir()))
    for _ in range(3):
        with contextlib.closing(start()) as child:
            ask(child, do="echo")
    assert len(list(folder.iterdir())) == before


@pytest.mark.parametrize("fails", ["os.pipe", "subprocess.Popen", "tempfile.TemporaryFile"])
def test_a_worker_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    """Where files or processes run out: a sentence, and nothing is left open."""

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(f"vitbench.engine.child.{fails}", refused)
    with pytest.raises(ChildDied, match="the worker cannot be started: Too many open files"):
        Child()
    assert len(os.listdir("/proc/self/fd")) == before
