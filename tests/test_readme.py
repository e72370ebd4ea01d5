"""README.md is true: its commands run, its generated parts are current, its links lead on."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import attentions
from tests.readme import README, ROOT, RUN, fields_without_a_knob, filled
from vitbench.__main__ import run

TEXT = README.read_text(encoding="utf-8")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def commands(program: str) -> list[str]:
    """The lines of indented blocks that call a program, without their comments."""
    found = re.findall(rf"^    ({program} .*)$", TEXT, re.MULTILINE)
    return [line.partition("#")[0].strip() for line in found]


def code_blocks() -> list[str]:
    """The Python in README.md."""
    return re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def plugin(folder: Path) -> Path:
    """The example of an attention of one's own, as a file."""
    (example,) = (code for code in code_blocks() if "ATTENTION =" in code)
    path = folder / "relu_attention.py"
    path.write_text(example, encoding="utf-8")
    return path


def project(folder: Path) -> None:
    """What the examples of `ab` speak of: revisions, folders and environments."""
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
    for name in ("old", "new"):
        (folder / name).mkdir()
        shutil.copy(folder / "relu_attention.py", folder / name / "my_attention.py")
    shutil.copy(folder / "relu_attention.py", folder / "my_attention.py")
    for name in ("venv-a", "venv-b"):
        python = folder / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        python.chmod(0o755)


def test_there_are_commands() -> None:
    """What follows is not empty."""
    assert len(commands("vitbench")) > 10
    assert len(commands("make")) > 3


@pytest.mark.parametrize("line", commands("vitbench"))
def test_vitbench_commands(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each ends well; one that would measure says what it would measure, on the CPU.

    A command that draws does so into a folder of its own, to leave the committed run alone.
    """
    _, *words = shlex.split(line)
    if words[0] == "run":
        words = ["run", "--dry-run", *(word.replace("cuda", "cpu") for word in words[1:])]
    if words[0] == "ab":
        words += ["--dry-run", "--device", "cpu"]
    if words[0] == "plot":
        words += ["--out", str(tmp_path / "plots")]
    (tmp_path / "reports").symlink_to(ROOT / "reports")
    plugin(tmp_path)
    if words[0] == "ab":
        project(tmp_path)
    rows = (RUN / "records.csv").read_text().splitlines(keepends=True)
    smallest = rows[:2] if words[:2] == ["check", "baseline.csv"] and len(words) == 3 else rows
    (tmp_path / "baseline.csv").write_text("".join(smallest))
    monkeypatch.chdir(tmp_path)
    status = run(words)
    captured = capsys.readouterr()
    assert status == 0, captured.err
    assert captured.out


@pytest.mark.parametrize("line", sorted(set(commands("make"))))
def test_make_targets(line: str) -> None:
    """Each target is there."""
    done = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_python_examples_run(tmp_path: Path) -> None:
    """The example of the Python interface, as a reader would run it."""
    (example,) = (code for code in code_blocks() if "make_plan" in code)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "hilo" in done.stdout
    assert (tmp_path / "my-run" / "records.csv").is_file()


def test_plugin_example(tmp_path: Path) -> None:
    """It is 30 lines or so, and its closed form and its output are right."""
    path = plugin(tmp_path)
    assert len([line for line in path.read_text().splitlines() if line.strip()]) <= 32
    words = "--resolution 64 --dim 32 --heads 2 --batch-size 1 --effort quick --rounds 1 --cap 0.1"
    where = ["--device", "cpu", "--quiet", "--out", str(tmp_path / "run")]
    status = run(["run", "--plugin", str(path), "--attention", path.stem, *words.split(), *where])
    assert status == 0
    assert ",measured," in (tmp_path / "run" / "records.csv").read_text()
    assert "closed form" in (tmp_path / "run" / "records.csv").read_text()


def test_generated_parts_are_current() -> None:
    """Tables follow from the code and the committed run; `python -m tests.readme` writes them."""
    assert filled(TEXT) == TEXT
    assert not fields_without_a_knob()


def test_count_of_mechanisms() -> None:
    """The number that the first lines give."""
    assert f"{len(attentions.names())} mechanisms" in TEXT


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    """A file that a page points to is there, and so is a heading of its own."""
    text = (ROOT / page).read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_every_command_is_told_of() -> None:
    """A reader finds every command of the program."""
    from vitbench.cli import app

    names = [command.name for command in app.registered_commands]
    assert names
    missing = [name for name in names if f"vitbench {name}" not in TEXT]
    assert not missing
