"""What `vitbench ab` compares: a git revision, a folder or a Python environment. No torch."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import attentions
from vitbench import runtimes
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

    @property
    def has_own_attentions(self) -> bool:
        """Whether it is a tree with vitbench's attentions/ folder."""
        root = self.target.root
        return root is not None and (root / "attentions" / "_registry.py").is_file()

    def registry(self) -> dict[str, Path]:
        """The mechanisms of this side: name -> file."""
        if self.target.root is None or not self.has_own_attentions:
            return attentions.files()
        return attentions.files(self.target.root / "attentions")

    def find(self, plugin: Path) -> Path | None:
        """This side's own file of the plugin that the user names, seen from the current folder."""
        if self.target.root is None or plugin.is_absolute():
            return None
        inside = self.target.root
        if self.top is not None and (here := Path.cwd()).is_relative_to(self.top):
            inside /= here.relative_to(self.top)
        return inside / plugin if os.path.isfile(inside / plugin) else None

    def plugins(self, files: Mapping[str, Path], other: Revision) -> dict[str, Path]:
        """The user's plugin files as this side has them, without those that it lacks.

        A file of either side's tree or of the repository, or with a relative path where a folder is
        measured, is this side's own; any other is the same on both.
        """
        root, own = self.target.root, dict(files)
        trees = [side.target.root for side in (self, other) if side.target.root is not None]
        # A tree may lie inside another, and all of them in the current folder.
        trees = sorted((tree.resolve() for tree in trees), key=lambda tree: -len(tree.parts))
        for name, path in files.items():
            for tree in (*trees, self.top or Path.cwd()):
                if root is not None and path.is_relative_to(tree):
                    own[name] = root / path.relative_to(tree)
                    break
        return {name: path for name, path in own.items() if path.is_file()}


def locate(plugin: Path, base: Revision, head: Revision) -> Path:
    """The file of the plugin that the user names: the head's, else the one here, else the base's.

    Raises BadInput where there is none.
    """
    if (own := head.find(plugin)) is not None:
        return own
    if os.path.isfile(plugin):
        return plugin
    if (own := base.find(plugin)) is not None:
        return own
    sides = f"{base.label} or {head.label}"
    raise BadInput(f"plugin {plugin} is not a file, neither here nor in {sides}")


@contextlib.contextmanager
def checkout(base: str, head: str | None) -> Iterator[tuple[Revision, Revision]]:
    """Both sides; the head is the working tree where it is None. Raises BadInput.

    Worktrees are made in a temporary folder and removed however the block is left.
    """
    with (
        tempfile.TemporaryDirectory(prefix="vitbench-ab-") as folder,
        contextlib.ExitStack() as worktrees,
    ):
        yield _with_versions(
            _revision(base, Path(folder), worktrees),
            _working_tree() if head is None else _revision(head, Path(folder), worktrees),
        )


def _revision(name: str, folder: Path, worktrees: contextlib.ExitStack) -> Revision:
    """A revision where git knows one, else a Python, else a folder."""
    path = Path(name)
    python = _python_in(path)
    if python is not None:
        return Revision(name, Target(str(python)))
    top = _top()
    commit = None if top is None or name.startswith(("./", "../", "/")) else _commit(top, name)
    if top is not None and commit is not None:
        root = folder / commit
        if not root.exists():  # both sides may be the same commit
            worktrees.callback(_remove_worktree, top, root)  # first: git may be interrupted
            _git(top, "worktree", "add", "--detach", "--quiet", str(root), commit)
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


_ALWAYS_NAMED = ("Python", "torch")
_VERSIONS = """
import importlib.metadata as metadata, json, sys
packages = metadata.packages_distributions()
versions = {name: metadata.version(packages[name][0]) for name in sys.argv[1:] if name in packages}
versions |= {"Python": sys.version.split()[0], "torch": metadata.version("torch")}
print(json.dumps(versions))
"""


def _with_versions(base: Revision, head: Revision) -> tuple[Revision, Revision]:
    """The sides; the label of a Python environment says what it has: `old (Python 3.11.7, torch
    2.14.1, openvino 2025.3.0)`, of the runtimes' packages those in which the sides differ.

    Raises BadInput where it has no torch.
    """
    sides = (base, head)
    if base.target.python == head.target.python:
        pythons = {base.target.python or ""} - {""}
    else:
        pythons = {side.target.python or sys.executable for side in sides}
    versions = {python: _versions(python) for python in sorted(pythons)}
    packages = [
        name
        for name in runtimes.all_packages()
        if len({own.get(name) for own in versions.values()}) > 1
    ]

    def labelled(side: Revision) -> Revision:
        if side.target.python is None:
            return side
        own = versions[side.target.python]
        words = [f"{name} {own[name]}" for name in _ALWAYS_NAMED]
        words += [f"{name} {own[name]}" if name in own else f"no {name}" for name in packages]
        return replace(side, label=f"{side.label} ({', '.join(words)})")

    return labelled(base), labelled(head)


def _versions(python: str) -> Mapping[str, str]:
    """Of Python, torch and the runtimes' packages that are there. Raises BadInput where it has no
    torch."""
    try:
        done = subprocess.run(
            [python, "-c", _VERSIONS, *runtimes.all_packages()],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise BadInput(f"{python} cannot be measured: {_last_line(error)}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise BadInput(f"{python} cannot be measured: {error}") from None
    versions: Mapping[str, str] = json.loads(done.stdout)
    return versions


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


def _remove_worktree(top: Path, root: Path) -> None:
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
        raise BadInput(f"git {arguments[0]}: {_last_line(error)}") from None
    return done.stdout


def _last_line(error: subprocess.CalledProcessError) -> str:
    return (error.stderr.strip().splitlines() or ["no message"])[-1]


def same_code(base: Revision, head: Revision, has_plugins: bool) -> str | None:
    """Why nothing can differ between the sides; None where something can."""
    if base.target == head.target:
        return "both sides are the same"
    if base.target.python != head.target.python or has_plugins:
        return None
    if base.has_own_attentions or head.has_own_attentions:
        return None
    return "neither side has an attentions/ folder of vitbench's, and no --plugin is given"
