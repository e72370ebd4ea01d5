"""What ab compares: revisions as worktrees, folders, environments, and what is none of these."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import attentions
from tests.vitbench.examples import commit, git
from vitbench.engine import revision
from vitbench.errors import BadInput


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two commits on main, the first with a tag; the current folder. No worktree is left of it."""
    folder = tmp_path / "project"
    folder.mkdir()
    for text in ("first", "second"):
        commit(folder, text, "mine.py")
    git(folder, "tag", "v1", "HEAD~1")
    monkeypatch.chdir(folder)
    yield folder
    assert worktrees(folder) == 1


def worktrees(folder: Path) -> int:
    return git(folder, "worktree", "list").count("\n")


def test_a_revision_is_a_worktree(repository: Path) -> None:
    """With that revision's files, as long as it is open."""
    with revision.checkout("v1", "main") as (base, head):
        assert base.target.root is not None
        assert head.target.root is not None
        assert (base.target.root / "mine.py").read_text() == "first"
        assert (head.target.root / "mine.py").read_text() == "second"
        assert base.label == f"v1 ({git(repository, 'rev-parse', 'v1')[:7]})"
        assert worktrees(repository) == 3
        kept = base.target.root
    assert not kept.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_worktrees_go_however_it_ends(repository: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), revision.checkout("v1", None):
        raise error


def test_a_half_made_worktree_goes(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption while git makes it: its folder and git's own note of it are removed."""
    real = revision._git

    def interrupted(folder: Path, *words: str) -> str:
        output = real(folder, *words)
        if words[:2] == ("worktree", "add"):
            raise KeyboardInterrupt
        return output

    monkeypatch.setattr(revision, "_git", interrupted)
    with pytest.raises(KeyboardInterrupt), revision.checkout("v1", None):
        pass


def test_the_working_tree_is_measured_as_it_is(repository: Path) -> None:
    """Changes are named, and it is no commit then."""
    with revision.checkout("v1", None) as (_, head):
        assert head.target.root == repository
        assert head.commit == git(repository, "rev-parse", "HEAD").strip()
    for name in ("mine.py", "a.py", "b.py", "c.py"):
        (repository / name).write_text("changed")
    with revision.checkout("v1", None) as (_, head):
        assert head.commit is None
        assert "changed: " in head.label
        assert "mine.py" in head.label
        assert "and 1 more" in head.label


def test_hooks_do_not_run(repository: Path) -> None:
    """A checkout of ours is not one that the project's hooks should act on."""
    hook = repository / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch hooked\n")
    hook.chmod(0o755)
    with revision.checkout("v1", None) as (base, _):
        assert base.target.root is not None
        assert not (base.target.root / "hooked").exists()


def test_inside_a_hook(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git tells its hooks of a repository by the environment; ours is the current folder's."""
    with monkeypatch.context() as inside:
        inside.setenv("GIT_DIR", "/nowhere")
        with revision.checkout("v1", None) as (base, _):
            assert base.commit is not None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("v9", "v9 is no revision of project, no folder and no Python environment; revisions are "),
        ("./nothing", "./nothing is no revision of project"),
    ],
)
def test_what_is_nothing(repository: Path, name: str, reason: str) -> None:
    with pytest.raises(BadInput) as caught, revision.checkout(name, None):
        pass
    assert reason in str(caught.value)


def test_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revision has no meaning there; folders do."""
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(BadInput, match="there is no git repository here"),
        revision.checkout("main", None),
    ):
        pass
    (tmp_path / "old").mkdir()
    with revision.checkout("old", None) as (base, head):
        assert base.target.root == tmp_path / "old"
        assert head.label == "the current folder"


def test_a_python(tmp_path: Path, repository: Path) -> None:
    """By its executable; its versions are named."""
    with revision.checkout(sys.executable, None) as (base, _):
        assert base.target.python == sys.executable
        assert base.target.root is None
        assert "torch 2" in base.label
    poor = tmp_path / "env" / "bin" / "python"
    poor.parent.mkdir(parents=True)
    poor.write_text("#!/bin/sh\necho 'No package metadata was found for torch' >&2; exit 1\n")
    poor.chmod(0o755)
    said = pytest.raises(BadInput, match=r"cannot be measured: No package metadata")
    with said, revision.checkout(str(tmp_path / "env"), None):
        pass


def test_what_two_pythons_differ_in(tmp_path: Path) -> None:
    """Of the runtimes' packages, those in which they differ are named: an upgrade of one is what is
    judged."""
    common = {"Python": "3.11.7", "torch": "2.14.1", "onnx": "1.18"}
    for name, own in {
        "old": {"openvino": "2025.3", "tensorrt": "10.8"},
        "new": {"openvino": "2026.4"},
    }.items():
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\necho '{json.dumps(common | own)}'\n")
        python.chmod(0o755)
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    with revision.checkout(old, new) as (base, head):
        assert base.label == f"{old} (Python 3.11.7, torch 2.14.1, openvino 2025.3, tensorrt 10.8)"
        assert head.label == f"{new} (Python 3.11.7, torch 2.14.1, openvino 2026.4, no tensorrt)"
    with revision.checkout(old, old) as (base, head):
        assert base.label == head.label == f"{old} (Python 3.11.7, torch 2.14.1)"


def test_plugins_are_each_sides_own(repository: Path, tmp_path: Path) -> None:
    """A file of the repository is the revision's; one from elsewhere is the same on both."""
    elsewhere = tmp_path / "other.py"
    elsewhere.touch()
    (repository / "new.py").touch()
    named = {"mine": repository / "mine.py", "other": elsewhere, "new": repository / "new.py"}
    with revision.checkout("v1", None) as (base, head):
        assert head.plugins(named, base) == named
        assert base.target.root is not None
        own = {"mine": base.target.root / "mine.py", "other": elsewhere}
        assert base.plugins(named, head) == own


@pytest.mark.parametrize("here", [False, True])
def test_plugins_of_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: bool
) -> None:
    """Each side has its own, whether or not there is a third in the current folder; a folder that
    lacks it has none."""
    monkeypatch.chdir(tmp_path)
    for folder in ("old", "new", "new/inside", "empty"):
        Path(folder).mkdir()
    for name in ["old/my.py", "new/my.py", "new/inside/my.py", *["my.py"] * here]:
        Path(name).touch()
    for names, lacking in (
        (("old", "new"), set()),
        (("new", "new/inside"), set()),
        (("new/inside", "new"), set()),
        (("empty", "new"), {"empty"}),
        (("old", "empty"), {"empty"}),
    ):
        with revision.checkout(*names) as (base, head):
            path = revision.locate(Path("my.py"), base, head).resolve()
            for side, other, name in ((base, head, names[0]), (head, base, names[1])):
                own = {} if name in lacking else {"my": tmp_path / name / "my.py"}
                assert side.plugins({"my": path}, other) == own


def test_a_plugin_of_neither_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence with both names."""
    monkeypatch.chdir(tmp_path)
    for folder in ("old", "new"):
        Path(folder).mkdir()
    with revision.checkout("old", "new") as sides:
        for path in (Path("my.py"), tmp_path / "my.py"):
            with pytest.raises(BadInput, match=r"my.py is not a file, neither here nor in old or"):
                revision.locate(path, *sides)


def test_a_plugin_below_the_top(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path is seen from the current folder, on both sides."""
    (repository / "src").mkdir()
    commit(repository, "in src", "src/my.py")
    git(repository, "tag", "v2")
    monkeypatch.chdir(repository / "src")
    (repository / "src" / "my.py").write_text("changed")
    with revision.checkout("v2", None) as (base, head):
        path = revision.locate(Path("my.py"), base, head)
        assert path.read_text() == "changed"
        assert base.target.root is not None
        own = {"my": base.target.root / "src" / "my.py"}
        assert base.plugins({"my": path.resolve()}, head) == own


def test_the_registry_is_the_trees(tmp_path: Path, repository: Path) -> None:
    """A tree of vitbench's has its own mechanisms; any other has those installed."""
    with revision.checkout("v1", None) as (base, _):
        assert base.registry() == attentions.files()
    folder = repository / "attentions"
    folder.mkdir()
    (folder / "_registry.py").touch()
    (folder / "novel.py").touch()
    with revision.checkout("v1", None) as (_, head):
        assert head.registry() == {"novel": folder / "novel.py"}


def test_nothing_to_compare(repository: Path) -> None:
    """The same on both sides, or nothing that could differ."""
    with revision.checkout("v1", "v1") as sides:
        assert revision.same_code(*sides, True) == "both sides are the same"
    with revision.checkout("v1", None) as sides:
        assert "no --plugin is given" in str(revision.same_code(*sides, False))
        assert revision.same_code(*sides, True) is None
