"""The rules between the rooms (ARCHITECTURE.md), each checked on every file."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import attentions

ROOT = Path(__file__).parents[1]
ATTENTIONS = sorted((ROOT / "attentions").rglob("*.py"))
VITBENCH = sorted((ROOT / "vitbench").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SOURCES = [*ATTENTIONS, *VITBENCH]

# Rooms that work on yesterday's CSV without torch, and the command line, which imports it
# only in the commands that measure.
PURE = ("cases", "results", "analysis", "render", "cli", "errors")
# In the engine, what runs inside a worker.
TORCH_SIDE = {"entry", "passes", "prepared_case", "worker"}


def name_of(path: Path) -> str:
    """`vitbench.render.charts` for its file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Dotted names that a file imports, anywhere in it, or only when it is imported itself.

    `from a import b` gives a.b where that is a module of ours, else a.
    """
    tree = tree_of(path)
    nodes = list(_run_at_import(tree)) if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            assert node.module is not None
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                found.add(longer if longer in MODULES else node.module)
    return found


def _run_at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes outside of functions and of `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _run_at_import(node)


MODULES = {name_of(path): path for path in SOURCES}


def packages(path: Path) -> set[str]:
    """First parts of what a file imports."""
    return {name.partition(".")[0] for name in imports(path)}


def importers(package: str) -> set[str]:
    """Our modules that import a package."""
    return {name for name, path in MODULES.items() if package in packages(path)}


@pytest.mark.parametrize("path", ATTENTIONS, ids=name_of)
def test_attentions_know_nothing_of_vitbench(path: Path) -> None:
    """A mechanism runs without the benchmark: torch, jaxtyping and the standard library only.

    Triton is what a kernel is written in.
    """
    allowed = {"attentions", "torch", "jaxtyping", *sys.stdlib_module_names}
    if "kernels" in path.parts:
        allowed |= {"triton"}
    assert packages(path) <= allowed


@pytest.mark.parametrize("name", attentions.names())
def test_mechanisms_never_import_each_other(name: str) -> None:
    """What two share lives in an underscore file."""
    others = {f"attentions.{other}" for other in attentions.names()}
    for path in ATTENTIONS:
        if path.stem == name or path.stem.startswith("_"):
            assert not imports(path) & others


@pytest.mark.parametrize("path", sorted((ROOT / "vitbench/instruments").glob("*.py")), ids=name_of)
def test_instruments_know_nothing_of_case(path: Path) -> None:
    """They measure a callable or a module: of ours they import statistics and each other."""
    ours = {name for name in imports(path) if name.partition(".")[0] in ("vitbench", "attentions")}
    allowed = {"vitbench.analysis.stats", "vitbench.instruments"}
    assert {name for name in ours if not name.startswith("vitbench.instruments.")} <= allowed


def test_who_imports_what() -> None:
    """typer: cli. rich: cli and render. pynvml: the GPU's instrument. matplotlib: render."""
    assert {name for name in importers("typer") if not name.startswith("vitbench.cli")} == set()
    assert not importers("click")
    assert importers("pynvml") <= {"vitbench.devices.nvml"}
    for package in ("rich", "matplotlib"):
        for name in importers(package):
            assert name.startswith(("vitbench.render.", "vitbench.cli")), (name, package)


def test_torch_stays_on_its_side() -> None:
    """In vitbench: instruments, backbones and what joins them to Case."""
    for name in importers("torch"):
        if name.startswith("vitbench."):
            _, room, *rest = name.split(".")
            torch_side = room in {"instruments", "devices", "runtimes", "subjects"}
            assert torch_side or (room == "engine" and rest[0] in TORCH_SIDE), name


def test_the_way_of_the_data_has_no_way_back() -> None:
    """Modules import each other in one direction: no cycle, when they are imported."""
    graph = {
        name: {other for other in imports(path, top_level=True) if other in MODULES}
        for name, path in MODULES.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in graph[name] - {name}:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def pure_modules() -> list[str]:
    """Those of the rooms without torch, and of the engine what runs outside a worker."""
    pure = [name for name in MODULES if name.startswith("vitbench.") and name.split(".")[1] in PURE]
    engine = [name for name in MODULES if name.startswith("vitbench.engine.")]
    return sorted([*pure, *(name for name in engine if name.split(".")[2] not in TORCH_SIDE)])


def in_process(code: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
    )


def test_the_pure_half_imports_no_torch() -> None:
    """Neither directly nor through what it imports."""
    for name in pure_modules():
        assert "torch" not in packages(MODULES[name]), name
    code = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
    assert "fvcore" not in sys.modules, name
"""
    done = in_process(code, *pure_modules())
    assert done.returncode == 0, done.stderr


# Runs the command line and tells, however it ends, what was loaded and what was started.
WATCHED = """
import atexit, json, os, sys
started = []
sys.addaudithook(lambda event, words: started.append(event) if event == "subprocess.Popen" else 0)
path, sys.argv = sys.argv[1], ["vitbench", *sys.argv[2:]]

def tell():
    with open(path, "w") as file:
        json.dump({"modules": sorted(sys.modules), "started": started}, file)

atexit.register(tell)
from vitbench.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--help", 0),
        ("run --help", 0),
        ("--version", 0),
        ("list --suites", 0),
        ("--nonsense", 2),
        ("run --nonsense", 2),
        ("nonsense", 2),
        ("run nosuite", 2),
        ("run --attention hillo", 2),
        ("run --dtype float23", 2),
        ("run --device gpu", 2),
        ("run --dim 30 --heads 4", 2),
        ("run --param msa.alpha=3", 2),
        ("run --cap=-1", 2),
        ("run --rounds 0", 2),
    ],
)
def test_answers_that_need_no_torch(tmp_path: Path, words: str, status: int) -> None:
    """Help, version and mistakes are answered without importing torch or starting a process."""
    seen = tmp_path / "seen.json"
    done = in_process(WATCHED, str(seen), *words.split())
    assert done.returncode == status, done.stderr
    told = json.loads(seen.read_text())
    assert "torch" not in told["modules"]
    assert told["started"] == []


@pytest.mark.parametrize("words", ["--help", "--nonsense", "run --help", "--version"])
def test_help_imports_no_heavy_library(tmp_path: Path, words: str) -> None:
    """Nor pandas, scipy, numpy and matplotlib: what is answered at once stays so."""
    seen = tmp_path / "seen.json"
    in_process(WATCHED, str(seen), *words.split())
    heavy = {"pandas", "scipy", "numpy", "matplotlib"}
    assert not heavy & set(json.loads(seen.read_text())["modules"])


@pytest.mark.parametrize("words", ["run --attention h", "run qu", "run --param hilo.", "l"])
def test_completion_needs_no_torch(tmp_path: Path, words: str) -> None:
    """Nobody waits seconds for the tabulator key."""
    seen = tmp_path / "seen.json"
    done = in_process(
        WATCHED,
        str(seen),
        _VITBENCH_COMPLETE="complete_bash",
        COMP_WORDS=f"vitbench {words}",
        COMP_CWORD=str(len(words.split())),
    )
    assert done.stdout.split(), done.stderr
    told = json.loads(seen.read_text())
    assert "torch" not in told["modules"]
    assert told["started"] == []


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_says_what_it_is(path: Path) -> None:
    """A module docstring, and a name that says more than "things"."""
    assert ast.get_docstring(tree_of(path)), path
    words = set(path.stem.strip("_").split("_"))
    assert not words & {"utils", "util", "common", "helpers", "helper", "manager", "core"}


def _swallows(node: ast.AST) -> bool:
    """`except ...: pass`, or suppress of everything."""
    if isinstance(node, ast.ExceptHandler):
        wide = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
        return wide and all(
            isinstance(one, ast.Pass | ast.Continue)
            or (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
            for one in node.body
        )
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
        return any(ast.unparse(word) in ("Exception", "BaseException") for word in node.args)
    return False


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_fault_is_swallowed(path: Path) -> None:
    """No `except Exception: pass` in any dress."""
    for node in ast.walk(tree_of(path)):
        assert not _swallows(node), f"{path}, line {getattr(node, 'lineno', '?')}"


def comments(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of each comment of a Python file."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_exception_from_a_rule_has_a_reason(path: Path) -> None:
    """A code that says what is ignored, and beside it why."""
    for line, text in comments(path):
        if re.search(r"#\s*noqa", text):
            good = re.search(r"# noqa: [A-Z]+\d+(, ?[A-Z]+\d+)* +[-#] *\w.{3,}", text)
            assert good, f"{path}, line {line}: {text}"
        if re.search(r"#\s*type:\s*ignore", text):
            good = re.search(r"# type: ignore\[[\w, -]+\] +# *\w.{3,}", text)
            assert good, f"{path}, line {line}: {text}"
        if "pragma: no cover" in text:
            assert re.search(r"no cover +[-#] *\w{2,}", text), f"{path}, line {line}: {text}"


def test_every_ignore_of_the_project_has_a_reason() -> None:
    """In pyproject.toml: each rule that is left out, and each relaxation of mypy."""
    inside = False
    for line in (ROOT / "pyproject.toml").read_text().splitlines():
        code = line.strip()
        if re.match(r'(ignore|extend-ignore|"tests/.*") = \[$', code):
            inside = True
        elif inside and code == "]":
            inside = False
        elif inside or re.match(r"ignore_missing_imports|warn_\w+ = false|disable_error", code):
            assert re.search(r"# \w+", code), code


def published() -> list[Path]:
    """Files that git tracks, or would with `git add`."""
    words = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("these tests do not run in a git checkout")
    return [path for path in (ROOT / name for name in done.stdout.splitlines()) if path.is_file()]


def test_no_path_of_a_machine_is_published() -> None:
    """Neither a home folder nor the checkout's own place stands in any file."""
    pattern = re.compile(rb"/(?:home|Users|root|work|mnt|scratch)/[A-Za-z0-9._-]+/")
    here = str(ROOT).encode() + b"/"
    for path in published():
        data = path.read_bytes()
        found = pattern.search(data)
        assert found is None, f"{path}: {found.group()!r}" if found else ""
        assert here not in data, path
