"""vitbench ab through the real command: a slowdown is named, and nothing broken passes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from tests.vitbench.examples import ROOT

_SIZE = "--resolution 64 --dim 32 --heads 2 --batch-size 1 --impl eager --device cpu --quiet"
# One thread: tests run side by side, and two threads on one core wait for each other in turns.
_FAST = "--threads 1 --reading 0.01 --max-blocks 6"
_MARK = "VITBENCH_TEST_MARK"

# A layer that makes its one product some times over.
LAYER = """
import torch
from torch import nn
from attentions import AttentionSpec

{before}


class Layer(nn.Module):
    def __init__(self, dim, num_heads, grid):
        super().__init__()
        self.proj = nn.Linear(dim, dim)
        self.weight = nn.Parameter(torch.ones(256, 256) / 256)

    def forward(self, x):
        y = self.proj(x)
        for _ in range({times}):
            y = y + 0.0 * (self.weight @ self.weight).sum()
        {last}
        return y


ATTENTION = AttentionSpec(module=Layer)
"""


def layer(times: int = 4, before: str = "", last: str = "") -> str:
    return LAYER.format(times=times, before=before, last=last)


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a mechanism of its own, as a user has it: a sound one on main."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    commit(folder, layer(), "sound")
    return folder


def commit(folder: Path, text: str, message: str, name: str = "layer.py") -> None:
    (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)


def ab(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vitbench", "ab", *words],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def options(*words: str) -> list[str]:
    return [*words, "--plugin", "layer.py", "--attention", "layer", *_SIZE.split(), *_FAST.split()]


def action(folder: Path, summary: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """What action.yml runs, as GitHub would run it."""
    yaml = pytest.importorskip("yaml")
    told = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = (step for step in told["runs"]["steps"] if step.get("id") == "gate")
    inputs = {name: str(one.get("default", "")) for name, one in told["inputs"].items()}
    inputs |= {name.replace("_", "-"): text for name, text in given.items()}
    environment = {
        name: inputs[text.removeprefix("${{ inputs.").removesuffix(" }}")]
        for name, text in step["env"].items()
    }
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env=os.environ | environment | {"PATH": tools, "GITHUB_STEP_SUMMARY": str(summary)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("blocks", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_slower_head(project: Path, tmp_path: Path, blocks: int) -> None:
    """Twenty times the work, through the action: status 3, in every form, with the MACs, the
    command, and after enough blocks ratio and interval; what was measured stands in the folder,
    and no worktree is left."""
    commit(project, layer(80), "slow")
    fast = _FAST.replace("6", str(blocks))
    small = f"--plugin layer.py --attention layer {_SIZE} {fast} --json speed.json"
    done = action(
        project,
        tmp_path / "summary.md",
        base="HEAD~1",
        head="HEAD",
        args=small,
        max_slowdown="20%",
        out="result",
    )
    assert done.returncode == 3, done.stdout + done.stderr
    flat = re.sub(r"\s+", " ", done.stdout)
    assert "layer 64px" in flat
    if blocks > 1:
        told = re.search(
            r"layer 64px .* is slower: (\d+\.\d{3}) times the base's latency \(9", flat
        )
        assert told is not None, flat
        assert float(told[1]) > 1.2
        assert "again: vitbench ab HEAD~1 HEAD --plugin" in flat
        assert "--attention layer --resolution 64x64" in flat
    assert "::error title=vitbench::layer 64px" in done.stdout
    result = json.loads((project / "speed.json").read_text())
    assert result["status"] == 3
    failures = [
        one.attrib["message"] for one in ElementTree.parse(project / "vitbench.xml").iter("failure")
    ]
    assert any("is slower" in message for message in failures) == (blocks > 1)
    assert any("macs grew from" in message for message in failures)
    assert "regression in 1 of 1 cases" in (tmp_path / "summary.md").read_text()
    names = {path.name for path in (project / "result").iterdir()}
    assert {"readings.csv", "base.csv", "head.csv", "result.json"} <= names
    assert ("forest.png" in names) == (blocks > 1)
    assert git(project, "worktree", "list").count("\n") == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (layer(last="raise RuntimeError('broken')"), "broken"),
        # More workers are started for these; test_ab.py has them with workers of its own.
        pytest.param(layer(last="import os; os._exit(139)"), "crashed", marks=pytest.mark.slow),
        pytest.param(layer(before="import no"), "cannot be imported", marks=pytest.mark.slow),
    ],
)
def test_a_broken_head_never_passes(project: Path, text: str, word: str) -> None:
    """Status 5 and the reason."""
    commit(project, text, "broken")
    done = ab(project, *options("HEAD~1", "HEAD"))
    assert done.returncode == 5, done.stdout + done.stderr
    assert word in re.sub(r"\s+", " ", done.stdout)
    assert "Traceback" not in done.stderr


def test_a_mechanism_that_the_base_lacks(project: Path) -> None:
    """Missing, and nothing else was compared: status 5. The dirty tree is named."""
    git(project, "mv", "layer.py", "other.py")
    git(project, "commit", "-q", "-m", "another name")
    (project / "layer.py").write_text(layer())
    done = ab(project, *options("HEAD"))
    assert done.returncode == 5, done.stdout + done.stderr
    assert "missing" in done.stdout
    assert "the base does not have it" in re.sub(r"\s+", " ", done.stdout)
    assert "changed: layer.py" in re.sub(r"\s+", " ", done.stdout)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["v9"], "v9 is no revision of project"),
        (["HEAD", "HEAD"], "there is nothing to compare: both sides are the same"),
        (["HEAD", "--max-slowdown", "fast"], "--max-slowdown: a share is like 5%"),
        (["HEAD", "--max-blocks", "0"], "at least one block is needed"),
        (["HEAD", "--reading", "0"], "--reading must be a positive time"),
        (["HEAD", "--attention", "hillo"], "no attention mechanism is called 'hillo'"),
    ],
)
def test_bad_input(project: Path, words: list[str], told: str) -> None:
    """One sentence, status 2, no traceback, no folder and no worktree."""
    done = ab(project, *options(), *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert told in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (project / "reports").exists()
    assert git(project, "worktree", "list").count("\n") == 1


def test_a_base_that_does_not_import(tmp_path: Path) -> None:
    """A tree of vitbench's whose attentions are broken: one sentence with its name, status 2."""
    broken = tmp_path / "broken" / "attentions"
    broken.mkdir(parents=True)
    for path in (ROOT / "attentions").glob("*.py"):
        (broken / path.name).write_text(path.read_text())
    (broken / "__init__.py").write_text("import nothing_of_this_name\n")
    done = ab(tmp_path, "broken", str(ROOT), "--attention", "msa", *_SIZE.split(), *_FAST.split())
    assert done.returncode == 2, done.stdout + done.stderr
    assert "base broken cannot be measured" in done.stderr
    assert "nothing_of_this_name" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_interrupted(project: Path, number: signal.Signals) -> None:
    """Ctrl-C, and a job that is cancelled: what there is is kept, status 130, and neither worktree
    nor process is left."""
    commit(project, layer(5), "another")
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "vitbench", "ab", *options("HEAD~1", "HEAD"), "--out", "result"],
        cwd=project,
        env=os.environ | {_MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    readings = project / "result" / "readings.csv"
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and not (
        readings.exists() and readings.read_text().count("\n") > 4
    ):
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 130, out + err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert (project / "result" / "result.json").is_file()
    assert git(project, "worktree", "list").count("\n") == 1
    assert not _left_behind(mark)


def _left_behind(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


def test_the_workflows_are_sound() -> None:
    """Every option that they and the action give to ab is one that it has."""
    yaml = pytest.importorskip("yaml")
    help_text = subprocess.run(
        [sys.executable, "-m", "vitbench", "ab", "--help"],
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    texts = [(ROOT / "action.yml").read_text(), (ROOT / ".github/workflows/gate.yml").read_text()]
    for text in texts:
        yaml.safe_load(text)
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", text):
            assert option in help_text, option
