"""vitbench ab through the real command: a slowdown is named, and nothing broken passes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from xml.etree import ElementTree

import pytest

import attentions
from tests.vitbench.engine import workers as scripted
from tests.vitbench.examples import (
    MARK,
    ROOT,
    commit,
    git,
    layer,
    left_behind,
    plan,
    plugin,
    read_csv,
    vitbench,
)
from vitbench.__main__ import run
from vitbench.cases import plan as plans
from vitbench.cli.ab import Precision
from vitbench.engine import messages, pool

_SIZE = "--resolution 64 --dim 32 --heads 2 --batch-size 1 --impl eager --device cpu --quiet"
# One thread: tests run side by side, and two threads on one core wait for each other in turns.
_FAST = "--threads 1 --reading 0.01 --max-blocks 6"


def products(times: int) -> str:
    """A layer that makes its one product some times over."""
    return layer(
        build="self.weight = nn.Parameter(torch.ones(256, 256) / 256)",
        forward=f"for _ in range({times}):\n    y = y + 0.0 * (self.weight @ self.weight).sum()",
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a mechanism of its own, as a user has it: a sound one on main."""
    folder = tmp_path / "project"
    folder.mkdir()
    commit(folder, products(4), "layer.py")
    return folder


def options(*words: str) -> list[str]:
    return [*words, "--plugin", "layer.py", "--attention", "layer", *_SIZE.split(), *_FAST.split()]


TOOLS = Path(sys.executable).parent


def action(
    folder: Path, summary: Path, tools: Path = TOOLS, /, **given: str
) -> subprocess.CompletedProcess[str]:
    """What action.yml runs, as GitHub would run it, with the vitbench of a folder of tools."""
    yaml = pytest.importorskip("yaml")
    definition = yaml.safe_load((ROOT / "action.yml").read_text())
    (step,) = (step for step in definition["runs"]["steps"] if step.get("id") == "gate")
    inputs = {name: str(key.get("default", "")) for name, key in definition["inputs"].items()}
    inputs |= {name.replace("_", "-"): text for name, text in given.items()}
    environment = {
        name: inputs[text.removeprefix("${{ inputs.").removesuffix(" }}")]
        for name, text in step["env"].items()
    }
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env=os.environ | environment | {"PATH": path, "GITHUB_STEP_SUMMARY": str(summary)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("blocks", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_slower_head(project: Path, tmp_path: Path, blocks: int) -> None:
    """Twenty times the work, through the action: status 3, in every form, with the MACs, the
    command, and after enough blocks ratio and interval; what was measured stands in the folder,
    and no worktree is left."""
    commit(project, products(80), "layer.py")
    fast = _FAST.replace("6", str(blocks))
    small = f"--plugin layer.py --attention layer {_SIZE} {fast} --json speed.json"
    inputs = {"base": "HEAD~1", "head": "HEAD", "max_slowdown": "20%", "out": "result"}
    done = action(project, tmp_path / "summary.md", args=small, **inputs)
    assert done.returncode == 3, done.stdout + done.stderr
    flat = re.sub(r"\s+", " ", done.stdout)
    assert "layer 64px" in flat
    if blocks > 1:
        slower = r"layer 64px .* is slower: (\d+\.\d{3}) times the base's latency \(9"
        ratio = re.search(slower, flat)
        assert ratio is not None, flat
        assert float(ratio[1]) > 1.2
        assert "again: vitbench ab HEAD~1 HEAD --plugin" in flat
        assert "--attention layer --resolution 64x64" in flat
    assert "::error title=vitbench::layer 64px" in done.stdout
    assert json.loads((project / "speed.json").read_text())["status"] == 3
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
        (layer(forward="raise RuntimeError('broken')"), "broken"),
        # More workers are started for these; test_ab.py has them with workers of its own.
        pytest.param(layer(forward="os._exit(139)"), "crashed", marks=pytest.mark.slow),
    ],
)
def test_a_broken_head_never_passes(project: Path, text: str, word: str) -> None:
    """Status 5 and the reason."""
    commit(project, text, "layer.py")
    done = vitbench(project, "ab", *options("HEAD~1", "HEAD"))
    assert done.returncode == 5, done.stdout + done.stderr
    assert word in re.sub(r"\s+", " ", done.stdout)
    assert "Traceback" not in done.stderr


def test_a_mechanism_that_the_base_lacks(project: Path) -> None:
    """Missing, and nothing else was compared: status 5. The dirty tree is named."""
    git(project, "rm", "-q", "layer.py")
    commit(project, layer(), "other.py")
    (project / "layer.py").write_text(layer())
    done = vitbench(project, "ab", *options("HEAD"))
    assert done.returncode == 5, done.stdout + done.stderr
    flat = re.sub(r"\s+", " ", done.stdout)
    for text in ("missing", "the base does not have it", "changed: layer.py"):
        assert text in flat


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["v9"], "v9 is no revision of project"),
        (["HEAD", "HEAD"], "there is nothing to compare: both sides are the same"),
        (["HEAD", "--max-slowdown", "fast"], "--max-slowdown: a share is like 5%"),
        (["HEAD", "--max-blocks", "0"], "at least one block is needed"),
        (["HEAD", "--reading", "0"], "--reading must be a positive time"),
        (["HEAD", "--attention", "hillo"], "no attention mechanism is called 'hillo'"),
    ],
)
def test_bad_input(project: Path, words: list[str], reason: str) -> None:
    """One sentence, status 2, no traceback, no folder and no worktree."""
    done = vitbench(project, "ab", *options(), *words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert reason in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (project / "reports").exists()
    assert git(project, "worktree", "list").count("\n") == 1


class Importing(scripted.Workers):
    """Workers of this process, which import plugins."""

    def answer(self, worker: scripted.Worker, request: messages.Request) -> messages.Reply:
        assert isinstance(request, messages.CheckPlugin)
        try:
            attentions.load_file(Path(worker.side).resolve() / f"{request.name}.py")
        except attentions.BrokenAttention as reason:
            return messages.Refused(reason=str(reason))
        return messages.Accepted()


@pytest.mark.parametrize("broken", ["old", "new"])
@pytest.mark.parametrize(
    ("text", "fault"),
    [("1 / 0", "cannot be imported: ZeroDivisionError"), ("def", "is not valid Python")],
)
def test_a_plugin_that_is_broken_on_a_side(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: str,
    text: str,
    fault: str,
) -> None:
    """One sentence in advance that names the side, whichever it is; no folder."""
    monkeypatch.setattr(pool, "Child", Importing().make)
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new"):
        Path(name).mkdir()
        plugin(Path(name), "my", text if name == broken else layer())
    words = ["--plugin", "my.py", "--attention", "my", *_SIZE.split(), "--device", "cpu"]
    for more in (["--dry-run"], ["--out", "out"]):
        assert run(["ab", "old/", "new/", *words, *more]) == 2
        err = capsys.readouterr().err
        assert fault in err
        assert err.startswith("vitbench: ")
        assert err.count("\n") == 1
        # The head's text is read first, with its path.
        side = "base: plugin my.py" if broken == "old" else "plugin "
        assert side in err
    assert not Path("out").exists()


def test_two_folders_with_a_plugin_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the README has it, with no third copy here. Missing on a side, a sentence says so."""
    monkeypatch.setattr(pool, "Child", Importing().make)
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new", "empty"):
        Path(name).mkdir()
        if name != "empty":
            plugin(Path(name), "my", layer())
    words = ["--plugin", "my.py", *_SIZE.split(), "--dry-run"]
    assert run(["ab", "old/", "new/", *words]) == 0
    out = capsys.readouterr().out
    assert "my 64px" in out
    assert "does not have it" not in out
    assert run(["ab", "empty/", "new/", *words]) == 0
    assert "the base does not have it" in capsys.readouterr().out
    assert run(["ab", "old/", "empty/", *words]) == 2
    assert capsys.readouterr().err == "vitbench: the candidate does not have my\n"


def test_too_few_blocks_to_call_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said in advance that no slowdown can be found in them."""
    monkeypatch.setattr(pool, "Child", Importing().make)
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new"):
        Path(name).mkdir()
        plugin(Path(name), "my", layer())
    words = ["--plugin", "my.py", "--attention", "my", *_SIZE.split(), "--dry-run"]
    for blocks, said in (("5", "--max-blocks 5 is too few"), ("6", "6 to 6 blocks")):
        assert run(["ab", "old/", "new/", *words, "--max-blocks", blocks]) == 0
        assert said in capsys.readouterr().out


def test_packages_are_those_of_the_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two environments are compared in a runtime that this Python lacks; a folder is not."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "openvino" else find_spec(name)
    )
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new"):
        python = Path(name, "bin", "python")
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
    Path("folder").mkdir()
    words = ["--attention", "msa", *_SIZE.split(), "--runtime", "openvino", "--dry-run"]
    assert run(["ab", "old", "new", *words]) == 0
    assert "msa 64px" in capsys.readouterr().out
    assert run(["ab", "old", "folder", *words]) == 2
    assert "--runtime openvino needs openvino: pip install" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        ("eager,onnxruntime", "float32"),
        ("onnxruntime", "int8"),
        ("openvino", "int8"),
        ("executorch", "int8"),
    ],
)
def test_a_runtime_that_converts(tmp_path: Path, names: str, dtype: str) -> None:
    """Equal trees, as they are and converted: all is measured, each side's module from an artifact
    of its own that its row names, and with equal counts."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        plugin(tmp_path / name, "my", layer())
    words = ["--plugin", "my.py", "--attention", "my", *_SIZE.split(), *_FAST.split()]
    words += ["--runtime", names, "--dtype", dtype, "--max-blocks", "2", "--out", "out"]
    done = vitbench(tmp_path, "ab", "old/", "new/", *words)
    # The same or undecided, as the noise has it: nothing can be called in two blocks.
    assert done.returncode in (0, 4), done.stdout + done.stderr
    for side in ("base", "head"):
        rows = read_csv(tmp_path / "out" / f"{side}.csv")
        assert [row["runtime"] for row in rows] == names.split(",")
        for row in rows:
            assert (row["status"], row["rounds"]) == ("measured", "2")
            if row["runtime"] == "eager":
                assert row["artifact"] == ""
                continue
            artifact = tmp_path / "out" / row["artifact"]
            assert artifact.is_file()
            assert artifact.is_relative_to(tmp_path / "out" / "artifacts" / side)


def test_a_base_that_does_not_import(tmp_path: Path) -> None:
    """A tree of vitbench's whose attentions are broken: one sentence with its name, status 2."""
    broken = shutil.copytree(ROOT / "attentions", tmp_path / "broken" / "attentions")
    (broken / "__init__.py").write_text("import nothing_of_this_name\n")
    sides = ("broken", str(ROOT), "--attention", "msa")
    done = vitbench(tmp_path, "ab", *sides, *_SIZE.split(), *_FAST.split())
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
    commit(project, products(5), "layer.py")
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-m", "vitbench", "ab", *options("HEAD~1", "HEAD"), "--out", "result"],
        cwd=project,
        env=os.environ | {MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    readings, deadline = project / "result" / "readings.csv", time.monotonic() + 180
    while time.monotonic() < deadline:
        if readings.exists() and readings.read_text().count("\n") > 4:
            break
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 130, out + err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert (project / "result" / "result.json").is_file()
    assert git(project, "worktree", "list").count("\n") == 1
    assert not left_behind(mark)


def test_the_action_leaves_limit_and_device_to_vitbench(tmp_path: Path) -> None:
    """Unless its inputs say otherwise: a limit in the policy is not overruled, and a GPU is taken
    where there is one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "vitbench").write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    (folder / "vitbench").chmod(0o755)

    def words(**given: str) -> list[str]:
        done = action(tmp_path, tmp_path / "summary.md", folder, base="main", **given)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    assert "--max-slowdown" not in words()
    assert words()[:4] == ["ab", "main", "--device", "auto"]
    set_by_inputs = words(max_slowdown="3%", device="cuda:1", args="--device xpu")
    assert set_by_inputs[:6] == ["ab", "main", "--device", "cuda:1", "--max-slowdown", "3%"]
    assert set_by_inputs.index("xpu") > 6


def test_a_comparison_leaves_a_gpu_its_warm_up() -> None:
    """Its own rule warms up for less, where the device allows that."""
    precision = Precision(reading=0.5)
    on_gpu = precision.timed(plan(device="cuda", rule=plans.rule_of("quick", "cuda", {}))).rule
    assert (on_gpu.warmup_calls, on_gpu.warmup_s) == plans.warmup_floor("cuda") == (10, 0.5)
    on_host = precision.timed(plan(rule=plans.rule_of("quick", "cpu", {}))).rule
    of_effort = plans.rule_of("quick", "cpu", {})
    assert 0 < on_host.warmup_s < of_effort.warmup_s < on_gpu.warmup_s
    assert on_host.warmup_calls < of_effort.warmup_calls < on_gpu.warmup_calls


def test_both_sides_of_a_comparison_take_the_same_kernels() -> None:
    """Libraries do not choose theirs by trying them, as they may in a run: each process would
    choose anew."""
    assert messages.SetUp.of(plan()).autotune
    assert not messages.SetUp.of(Precision().timed(plan())).autotune


def test_the_workflows_are_sound() -> None:
    """Every option that they and the action give to ab is one that it has."""
    yaml = pytest.importorskip("yaml")
    help_text = vitbench(ROOT, "ab", "--help", COLUMNS="200").stdout
    texts = [(ROOT / "action.yml").read_text(), (ROOT / ".github/workflows/gate.yml").read_text()]
    for text in texts:
        yaml.safe_load(text)
        for option in re.findall(r"(?<![\w-])--[a-z][\w-]+", text):
            assert option in help_text, option
