"""README.md and docs/ are true: commands and examples run, tables are current, links lead on."""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import attentions
from tests.docs import BLOCKS, PAGES, ROOT, RUN, blocks_of, filled
from tests.vitbench.examples import case, plan, shard_runs
from vitbench.__main__ import run
from vitbench.analysis import gate
from vitbench.cli import app
from vitbench.results import merge

TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
ALL = "\n".join(TEXTS.values())
LINKED = (*TEXTS, "CONTRIBUTING.md", "CHANGELOG.md")


def fenced(language: str, text: str = ALL) -> list[str]:
    """The code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    """The commands of the shell examples that call a program, each once."""
    lines = "\n".join(fenced("sh")).splitlines()
    called = (shlex.join(shlex.split(line, comments=True)) for line in lines)
    return sorted({line for line in called if line.startswith(f"{program} ")})


def example(mark: str, page: str) -> str:
    """The Python example of a page that holds `mark`."""
    (code,) = (code for code in fenced("python", TEXTS[page]) if mark in code)
    return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands speak of: plugins, a baseline, runs, revisions, folders, environments."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "reports").mkdir()
    for run_folder in (RUN, RUN.with_name("cpu-detection"), RUN.with_name("cpu-runtimes")):
        shutil.copytree(run_folder, folder / "reports" / run_folder.name)
    baseline = pd.read_csv(RUN / "records.csv", dtype=str).head(1)
    baseline["peak_memory_bytes"] = ""  # it depends on the CPU's instructions
    baseline.to_csv(folder / "baseline.csv", index=False)
    attention = folder / "relu_attention.py"
    attention.write_text(example("ATTENTION =", "docs/plugins.md"), encoding="utf-8")
    model = folder / "patch_classifier.py"
    model.write_text(example("BACKBONE =", "docs/plugins.md"), encoding="utf-8")
    for number, part in enumerate(shard_runs(plan(case(), case(batch_size=1)), 2), start=1):
        merge.write(part, folder / f"shard-{number}")
    for name in ("old", "new"):
        (folder / name).mkdir(exist_ok=True)
        shutil.copy(attention, folder / name / "my_attention.py")
    for name in ("venv-a", "venv-b"):
        python = folder / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    shutil.copytree(ROOT / "attentions", folder / "attentions")
    for words in (
        ["init", "-q", "-b", "main"],
        ["add", "attentions"],
        ["commit", "-q", "-m", "first"],
        ["tag", "v0.1"],
        ["commit", "-q", "-m", "second", "--allow-empty"],
        ["tag", "v0.2"],
    ):
        subprocess.run([*git, *words], check=True, capture_output=True)
    return folder


def dry(words: list[str]) -> list[str]:
    """The command so that it ends soon: on the CPU, and without measuring where it can."""
    words = [word.replace("cuda", "cpu") if word.startswith("cuda") else word for word in words]
    if words[0] in ("run", "ab", "doctor") and "--device" not in words:
        words += ["--device", "cpu"]
    if words[0] in ("run", "ab") and "--dry-run" not in words:
        words += ["--dry-run"]
    if words[0] in ("plot", "trend", "baseline"):
        words += ["--out", f"new-{words[0]}"]
    return words


# What measures and has to: doctor takes three fresh processes, check and spectrum one, convert
# two.
SLOW = (
    "vitbench doctor",
    "vitbench check baseline.csv --untimed",
    "vitbench convert hilo --runtime openvino --resolution 224 --out model.xml",
    "vitbench spectrum hilo msa window",
    "vitbench spectrum vit_small --layer 'blocks.*.attn'",
)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[pytest.mark.slow] * (line in SLOW))
        for line in commands("vitbench")
    ],
)
def test_vitbench_commands(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command of the pages ends well and prints something."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    status = run(dry(shlex.split(line)[1:]))
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert captured.out


@pytest.mark.parametrize("line", commands("make"))
def test_make_targets(line: str) -> None:
    """Every make target of the pages exists."""
    done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_examples_are_found() -> None:
    """The tests above are not empty: the pages show every command, and both `make` commands."""
    shown = {line.split()[1] for line in commands("vitbench")}
    assert shown == {command.name for command in app.registered_commands} | {"baseline"}
    assert {"make bench", "make test"} <= set(commands("make"))
    assert set(SLOW) <= set(commands("vitbench"))


def test_python_examples(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The examples of the Python page run as scripts; in them the attention of the plugin page is
    measured, so its closed form and its output are right."""
    monkeypatch.chdir(folder)
    for code in fenced("python", TEXTS["docs/python.md"]):
        Path("example.py").write_text(code, encoding="utf-8")
        runpy.run_path("example.py", run_name="__main__")
    printed = capsys.readouterr().out
    assert "alpha=0.5" in printed
    assert "torch.Size([1, 14, 14, 384])" in printed
    rows = pd.read_csv("my-run/records.csv").set_index("attention")
    assert set(rows["status"]) == {"measured"}
    assert rows.loc["relu_attention", "macs_source"] == "closed form"


def test_plugin_backbone(folder: Path) -> None:
    """The model of the plugin page maps images to classes."""
    import torch

    model = runpy.run_path(str(folder / "patch_classifier.py"))["BACKBONE"].build(32, 48)
    assert model(torch.randn(2, 3, 32, 48)).shape == (2, 1000)


def test_toml_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The suite of the pages can be run, and their policy can be read."""
    monkeypatch.chdir(tmp_path)
    policy, suite = (
        next(code for code in fenced("toml") if mark in code)
        for mark in ("[tool.vitbench.check]", "[axes]")
    )
    Path("pyproject.toml").write_text(policy)
    Path("mine.toml").write_text(suite)
    assert gate.read_policy(Path("pyproject.toml")).limit("hilo", "max_slowdown", 1.0) == 0.03
    assert run(["run", "mine.toml", "--dry-run", "--device", "cpu"]) == 0
    assert "6 cases" in capsys.readouterr().out


@pytest.mark.parametrize("page", TEXTS)
def test_generated_parts_are_current(page: str) -> None:
    """Tables follow from the code and the reports; `python -m tests.docs` writes them."""
    assert filled(TEXTS[page]) == TEXTS[page]


def test_nothing_generated_is_left_out() -> None:
    """Every table that can be generated is on a page."""
    assert {name for text in TEXTS.values() for name in blocks_of(text)} == set(BLOCKS)


def test_count_of_mechanisms() -> None:
    """The pages give the number of mechanisms that there are."""
    counts = {int(count) for count in re.findall(r"(\d+)\s+(?:attention )?mechanisms", ALL)}
    assert counts == {len(attentions.names())}


@pytest.mark.parametrize("page", LINKED)
def test_links(page: str) -> None:
    """A link of a page leads to a file of the repository, and to a heading that is there."""
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
