"""What `vitbench ab` compares: a git revision, a folder or a Python environment. No torch."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import attentions
from vitbench.engine.child import Target
from vitbench.errors import BadInput

# A change in so many files is named file by file.
_NAMED_FILES = 3


@dataclass(frozen=True, slots=True)
class Revision:
    """One side of a comparison.

    label   `main (1a2b3c4)`, `the working tree (1a2b3c4, changed: hilo.py)`
    target  where its worker runs and what it measures
    top     the folder that relative paths of plugins belong to; None: the current one
    commit  full hash, None where there is none
    """

    label: str
    target: Target
    top: Path | None = None
    commit: str | None = None

    def registry(self) -> dict[str, Path]:
        """The mechanisms of this side: name -> file."""
        root = self.target.root
        if root is None or not (root / "attentions" / "_registry.py").is_file():
            return attentions.files()
        return attentions.files(root / "attentions")

    def plugins(self, files: Mapping[str, Path]) -> dict[str, Path]:
        """The user's plugin files as this side has them, without those that it lacks.

        A file of the repository, or with a relative path where a folder is measured, is this side's
        own; any other is the same on both.
        """
        own = {name: self._own(path) for name, path in files.items()}
        return {name: path for name, path in own.items() if path.is_file()}

    def _own(self, path: Path) -> Path:
        root = self.target.root
        here = self.top or Path.cwd()
        if root is None or not path.is_relative_to(here):
            return path
        return root / path.relative_to(here)


@contextlib.contextmanager
def checkout(base: str, head: str | None) -> Iterator[tuple[Revision, Revision]]:
    """Both sides; the head is the working tree where it is None. Raises BadInput.

    Worktrees are made in a temporary folder and removed however the block is left.
    """
    with tempfile.TemporaryDirectory(prefix="vitbench-ab-") as folder:
        worktrees = _Worktrees(Path(folder))
        try:
            yield (
                _revision(base, worktrees),
                _working_tree() if head is None else _revision(head, worktrees),
            )
        finally:
            worktrees.remove()


def _revision(name: str, worktrees: _Worktrees) -> Revision:
    """A revision where git knows one, else a Python, else a folder."""
    path = Path(name)
    python = _python_in(path)
    if python is not None:
        return Revision(f"{name} ({_version(python)})", Target(str(python)))
    top = _top()
    commit = None if top is None or name.startswith(("./", "../", "/")) else _commit(top, name)
    if top is not None and commit is not None:
        root = worktrees.add(top, commit)
        return Revision(f"{name} ({commit[:7]})", Target(root=root), top, commit)
    if path.is_dir():
        return Revision(name, Target(root=path.resolve()))
    if top is None:
        raise BadInput(
            f"{name} is no folder and no Python environment, and there is no git repository here "
            "in which it could be a revision"
        )
    examples = _newest_refs(top)
    raise BadInput(
        f"{name} is no revision of {top.name}, no folder and no Python environment"
        + (f"; revisions are like {examples}" if examples else "")
    )


def _working_tree() -> Revision:
    """The repository as it is now, changes included; without one the current folder."""
    top = _top()
    if top is None:
        return Revision("the current folder", Target(root=Path.cwd()))
    commit = _commit(top, "HEAD")
    changed = [line[3:] for line in _git(top, "status", "--porcelain").splitlines()]
    details = [] if commit is None else [commit[:7]]
    if changed:
        more = f" and {len(changed) - _NAMED_FILES} more" if len(changed) > _NAMED_FILES else ""
        details.append(f"changed: {', '.join(changed[:_NAMED_FILES])}{more}")
    label = f"the working tree ({', '.join(details)})" if details else "the working tree"
    return Revision(label, Target(root=top), top, None if changed else commit)


def _python_in(path: Path) -> Path | None:
    """The interpreter of an environment's folder, or the interpreter that the path itself is."""
    inside = path / "bin" / "python"
    if path.is_dir() and inside.exists():
        return inside.absolute()  # not resolved: a link inside an environment is what makes it one
    if path.is_file() and path.name.startswith("python") and os.access(path, os.X_OK):
        return path.absolute()
    return None


_VERSIONS = "import sys, importlib.metadata as m; print(sys.version.split()[0], m.version('torch'))"


def _version(python: Path) -> str:
    """`Python 3.11.7, torch 2.14.1`. Raises BadInput where it has no torch."""
    try:
        done = subprocess.run(
            [python, "-c", _VERSIONS], capture_output=True, text=True, timeout=60, check=True
        )
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise BadInput(f"{python} cannot be measured: {last}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise BadInput(f"{python} cannot be measured: {error}") from None
    version, torch = done.stdout.split()
    return f"Python {version}, torch {torch}"


def _top() -> Path | None:
    """The repository around the current folder."""
    try:
        return Path(_git(Path.cwd(), "rev-parse", "--show-toplevel").strip())
    except BadInput:
        return None


def _commit(top: Path, name: str) -> str | None:
    try:
        return _git(top, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").strip()
    except BadInput:
        return None


def _newest_refs(top: Path) -> str:
    """Some branches and tags, newest first."""
    command = ("for-each-ref", "--sort=-creatordate", "--count=3", "--format=%(refname:short)")
    return ", ".join(_git(top, *command, "refs/heads", "refs/tags").split())


class _Worktrees:
    """Worktrees in a folder, each made once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._roots: dict[tuple[Path, str], Path] = {}

    def add(self, top: Path, commit: str) -> Path:
        """The tree of a commit, as a folder."""
        root = self._folder / f"tree{len(self._roots) + 1}"
        if (top, commit) not in self._roots:
            self._roots[top, commit] = root  # first: what an interruption leaves is removed too
            _git(top, "worktree", "add", "--detach", "--quiet", str(root), commit)
        return self._roots[top, commit]

    def remove(self) -> None:
        for (top, _), root in self._roots.items():
            with contextlib.suppress(BadInput):  # twice: while it is half made it is locked
                _git(top, "worktree", "remove", "--force", "--force", str(root))
            shutil.rmtree(root, ignore_errors=True)
            with contextlib.suppress(BadInput):
                _git(top, "worktree", "prune")


_HOOK_VARIABLES = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"}


def _git(folder: Path, *arguments: str) -> str:
    """What git prints. Raises BadInput with git's own last line.

    In a hook, variables name a repository that is not this folder's; and no hook should run because
    we make a worktree.
    """
    command = ["git", "-C", str(folder), "-c", f"core.hooksPath={os.devnull}", *arguments]
    env = {name: text for name, text in os.environ.items() if name not in _HOOK_VARIABLES}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    except FileNotFoundError:
        raise BadInput("git is not installed here") from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        raise BadInput(f"git {arguments[0]}: {last}") from None
    return done.stdout


def same_code(base: Revision, head: Revision, has_plugins: bool) -> str | None:
    """Why nothing can differ between the sides; None where something can."""
    if base.target == head.target:
        return "both sides are the same"
    if base.target.python != head.target.python or has_plugins:
        return None
    for side in (base, head):
        root = side.target.root
        if root is not None and (root / "attentions" / "_registry.py").is_file():
            return None
    return "neither side has an attentions/ folder of vitbench's, and no --plugin is given"
