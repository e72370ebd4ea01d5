"""Modules that change what holds for the whole process: measured under ours, or marked."""

from __future__ import annotations

import io
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from tests.vitbench.examples import case, layer, measured, plugin, state
from vitbench.analysis import trust
from vitbench.engine import messages, worker
from vitbench.engine.messages import Measure, SetUp
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Measured
from vitbench.results.record import build_record
from vitbench.subjects import settings
from vitbench.subjects.settings import Settings

ONCE = TimingRule(
    warmup_calls=1, warmup_s=0.0, warmup_cap_s=0.0, sample_s=0.0, min_samples=2, min_s=0.0, cap_s=0
)


@pytest.fixture(autouse=True)
def own() -> Iterator[None]:
    """Puts back what a worker sets in this process."""
    before = settings.read()
    yield
    settings.restore(before)


def outcomes(folder: Path, **texts: str) -> list[Measured]:
    """Of plugins with these texts, one after the other in one worker."""
    files = {name: plugin(folder, name, text) for name, text in texts.items()}
    requests: list[messages.Request] = [SetUp(device="cpu", threads=2, plugins=files)]
    requests += [
        Measure(
            case=case(attention=name, impl="eager", params=()), rule=ONCE, with_facts=name == "rude"
        )
        for name in files
    ]
    replies = io.StringIO()
    lines = "".join(map(messages.to_line, requests))
    worker.serve(io.StringIO(lines), replies)
    answers = [messages.read_reply(line) for line in replies.getvalue().splitlines()[1:]]
    measured = []
    for answer in answers:
        assert isinstance(answer, messages.Finished)
        assert isinstance(answer.outcome, Measured), answer.outcome
        measured.append(answer.outcome)
    return measured


# What a module does, and what its row says.
CHANGES = {
    "torch.set_num_threads(1)": "threads 2 -> 1",
    "torch.set_default_dtype(torch.float64)": "default dtype float32 -> float64",
    "torch.set_default_device('meta')": "default device cpu -> meta",
    "torch.use_deterministic_algorithms(True)": "deterministic algorithms false -> true",
    "torch.backends.cudnn.deterministic = True": "cudnn deterministic false -> true",
    "torch.backends.cudnn.benchmark = True": "cudnn benchmark false -> true",
    "torch.set_flush_denormal(False)": "flush denormal true -> false",
    "torch.backends.mkldnn.matmul.fp32_precision = 'bf16'": "precision of fp32 in oneDNN matmul",
    "signal.signal(signal.SIGTERM, lambda *_: None)": "signal handler of SIGTERM",
    "signal.signal(signal.SIGINT, signal.SIG_IGN)": "signal handler of SIGINT",
    "os.environ['MY_FLAG'] = '1'": "environment variable MY_FLAG",
    "os.environ.pop('PATH', None)": "environment variable PATH",
    "os.chdir('/')": "the current folder",
}


@pytest.mark.parametrize(
    "change",
    [pytest.param(c, marks=[pytest.mark.slow] * (n % 5 > 0)) for n, c in enumerate(CHANGES)],
)
def test_a_change_while_it_is_built(tmp_path: Path, change: str) -> None:
    """Is set again before it runs; the row says so, and its figure is none the worse."""
    (built,) = outcomes(tmp_path, rude=layer(build=change, keywords=""))
    assert built.state["settings_changed"] == ""
    assert built.facts is not None
    assert built.facts.columns["notes"].startswith(
        f"set again after it was built: {CHANGES[change]}"
    )


@pytest.mark.parametrize(
    "change",
    [pytest.param(c, marks=[pytest.mark.slow] * (n % 3 > 0)) for n, c in enumerate(CHANGES)],
)
def test_a_change_in_forward(tmp_path: Path, change: str) -> None:
    """Is in the row and lowers its trust; the next case is measured under our settings."""
    change = change if "set_default_device" not in change else f"y = y.clone(); {change}"
    rude, after = outcomes(
        tmp_path, later=layer(forward=change, keywords=""), sound=layer(keywords="")
    )
    said = CHANGES[change.removeprefix("y = y.clone(); ")]
    assert rude.state["settings_changed"].startswith(said)
    assert after.state["settings_changed"] == ""
    record = {"settings_changed": rude.state["settings_changed"]}
    assert trust.grade(record) == (
        "C",
        [f"it changed settings while timed: {record['settings_changed']}"],
    )


def test_a_change_in_the_first_call_alone(tmp_path: Path) -> None:
    """Is set again before it is timed."""
    once = "if not hasattr(self, 'warm'):\n    self.warm = True\n    torch.set_num_threads(1)"
    (outcome,) = outcomes(tmp_path, lazy=layer(forward=once, keywords=""))
    assert outcome.state["settings_changed"] == ""


# A mode that stays entered: every operator of the process would go through it.
MODE = """
from torch.utils._python_dispatch import TorchDispatchMode
class Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))
Mode().__enter__()"""


def test_a_mode_of_torch(tmp_path: Path) -> None:
    """Is left when the module was built, and after each case."""
    built, rude, after = outcomes(
        tmp_path,
        rude=layer(build=MODE, keywords=""),
        later=layer(forward=MODE, keywords=""),
        sound=layer(keywords=""),
    )
    assert built.facts is not None
    assert built.facts.columns["notes"].startswith("set again after it was built: modes 0 -> 1")
    assert rude.state["settings_changed"].startswith("modes 0 -> ")
    assert built.state["settings_changed"] == after.state["settings_changed"] == ""


def test_a_mode_in_what_is_run_beside_the_timing(tmp_path: Path) -> None:
    """One that is entered where one image is checked or counted is left too: no reading and no time
    is taken under it, nor under what it kept from being left."""
    alone = "if len(x) == 1:" + MODE.replace("\n", "\n    ")
    (outcome,) = outcomes(tmp_path, rude=layer(forward=alone, keywords=""))
    assert outcome.facts is not None
    assert outcome.facts.columns["operator_calls"] == 1
    assert outcome.state["settings_changed"] == ""
    assert settings.read().modes == 0


# Says what is loaded when a process has timed a case.
LOADED = """
import sys
from tests.strangers.test_settings import ONCE
from tests.vitbench.examples import case
from vitbench.engine import passes
print(type(passes.measure(case(), ONCE, {}, with_facts=False)).__name__)
print(*{"torch._dynamo", "torch._inductor", "fvcore"} & sys.modules.keys())
"""


def test_what_a_worker_loads() -> None:
    """What only times a case loads no compiler, which takes seconds, and nothing that counts."""
    words = [sys.executable, "-c", LOADED]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == "Measured\n\n"


# A thread that runs until a file is there, and a process that does.
WAIT = "import os, time\nwhile not os.path.exists({stop!r}):\n    time.sleep(0.05)"
THREAD = "import threading\nthreading.Thread(target=exec, args=({wait!r},)).start()"
# A process that has ended, and that nobody asked how.
ENDED = """child = os.fork()
if child == 0:
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)"""
CHILD = "self.child = os.spawnl(os.P_NOWAIT, sys.executable, 'python', '-Sc', {wait!r})"


@pytest.mark.parametrize(
    ("build", "forward", "change"),
    [
        (THREAD, "pass", "python threads {} -> "),
        pytest.param("pass", THREAD, "python threads {} -> ", marks=pytest.mark.slow),
        (CHILD, "pass", "processes {} -> "),
        pytest.param(
            "pass",
            f"if not hasattr(self, 'child'):\n    {CHILD}",
            "processes {} -> ",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "os.spawnl(os.P_WAIT, sys.executable, 'python', '-Sc', '')",
            "pass",
            "",
            marks=pytest.mark.slow,
        ),
        (ENDED, "pass", ""),
    ],
)
def test_threads_and_processes_of_its_own(
    tmp_path: Path, build: str, forward: str, change: str
) -> None:
    """Those that still run when it is timed are in the row, whenever they were started, of each
    time that it was built; nothing says that they were set again."""
    before, others = settings.read(), set(threading.enumerate())
    wait = WAIT.format(stop=str(tmp_path / "stop"))
    text = layer(build.format(wait=wait), forward.format(wait=wait), keywords="")
    (outcome,) = outcomes(tmp_path, rude=text)
    (tmp_path / "stop").touch()
    for thread in set(threading.enumerate()) - others:
        thread.join(5)
    psutil.wait_procs(psutil.Process().children(), timeout=5)
    count = before.processes if "processes" in change else before.python_threads
    changed = str(outcome.state["settings_changed"])
    assert changed.startswith(change.format(count))
    assert bool(changed) == bool(change)
    assert outcome.facts is not None
    assert "set again" not in outcome.facts.columns["notes"]


@pytest.mark.parametrize("at", range(5))
def test_a_process_that_ends_by_itself_was_not_set_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """One of a library that runs at any one reading of the settings, and has ended at the next."""
    readings = itertools.count()
    monkeypatch.setattr(settings, "_processes", lambda: int(next(readings) == at))
    (outcome,) = outcomes(tmp_path, rude=layer(keywords=""))
    assert outcome.facts is not None
    assert "set again" not in outcome.facts.columns["notes"]


def test_random_numbers_are_ours(tmp_path: Path) -> None:
    """Whatever a module seeds or draws while it is built, its first call draws the same."""
    drawn: list[str] = []
    for build in ("pass", "torch.manual_seed(3); torch.rand(7)"):
        folder = tmp_path / str(len(drawn))
        folder.mkdir()
        forward = f"""
with open({str(folder / "drawn")!r}, "a") as file:
    file.write(f"{{torch.rand(1).item()}} ")"""
        outcomes(folder, draws=layer(build, forward, keywords=""))
        drawn.append((folder / "drawn").read_text().split()[0])
    assert drawn[0] == drawn[1]


def test_settings_are_data() -> None:
    """Two readings of one process are equal; what was changed is said, and set again."""
    before = settings.read()
    assert settings.changes(before, settings.read()) == []
    torch.set_num_threads(before.threads + 1)
    torch.set_default_dtype(torch.float16)
    assert settings.changes(before, settings.read()) == [
        f"threads {before.threads} -> {before.threads + 1}",
        "default dtype float32 -> float16",
    ]
    settings.restore(before)
    assert settings.read() == before
    assert isinstance(before, Settings)
    assert before.python_threads == threading.active_count()


def test_the_row_says_it() -> None:
    """What any round changed, each once."""
    rounds = [measured(state=state(settings_changed=text)) for text in ("", "threads 2 -> 1", "")]
    assert build_record(case(), rounds)["settings_changed"] == "threads 2 -> 1"
