"""The registry: a file of this folder without a leading "_" is one mechanism, its name the key.

Nothing is registered by import. `names` lists files; `outline` reads a file's facts without
running it; `load` imports the one file that was asked for.
"""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from attentions._spec import AttentionSpec, settings_at, year_of

_FOLDER = Path(__file__).parent


class UnknownAttention(LookupError):
    """No mechanism has this name."""


class BrokenAttention(ImportError):
    """A mechanism's file cannot be used: it does not import, or it defines no ATTENTION."""


def files(folder: Path = _FOLDER) -> dict[str, Path]:
    """The mechanisms of a folder (this one) by name, sorted. Imports none of them."""
    return {path.stem: path for path in sorted(folder.glob("[!_]*.py"))}


def names() -> tuple[str, ...]:
    """The names of all mechanisms, sorted. Imports none of them."""
    return tuple(files())


def path_of(name: str) -> Path:
    """The file of mechanism `name`. Raises UnknownAttention, which names the nearest."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.5)
        hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(names())}"
        raise UnknownAttention(f"no attention mechanism is called {name!r}; {hint}")
    return _FOLDER / f"{name}.py"


def load(name: str) -> AttentionSpec:
    """The spec of mechanism `name`.

    Raises UnknownAttention for a name without a file, BrokenAttention for a file that does not
    import or defines no ATTENTION.
    """
    path = path_of(name)
    return _spec_in(path, lambda: importlib.import_module(f"attentions.{name}"))


@functools.cache
def load_file(path: Path) -> AttentionSpec:
    """The spec in a file anywhere (a plugin). Raises BrokenAttention."""
    return _spec_in(path, lambda: import_file(path))


def import_file(path: Path) -> ModuleType:
    """Imports one Python file under a name of its own, and keeps it in sys.modules."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    module_name = f"attention_plugin_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _spec_in(path: Path, importer: Any) -> AttentionSpec:
    try:
        module = importer()
    # Whatever a file raises while it is imported, the reader needs the file's name first.
    except (Exception, SystemExit) as error:
        raise BrokenAttention(
            f"{path.name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    spec = getattr(module, "ATTENTION", None)
    if not isinstance(spec, AttentionSpec):
        found = "nothing" if spec is None else type(spec).__name__
        raise BrokenAttention(
            f"{path.name} must define ATTENTION = AttentionSpec(module=...), found {found}"
        )
    return spec


@dataclass(frozen=True, slots=True)
class Outline:
    """What can be read from a mechanism's file without running it.

    summary   first sentence of the module docstring
    keywords  hyper-parameters with their defaults; None where they cannot be read
    settings  the authors' hyper-parameters by stride; None where they are not a literal
    impls     implementations; None where they are not a literal
    words     the fields of the spec that are text and literal: cost, size_rule, kernels, equation
    year      of the paper; None where it names none
    """

    summary: str
    keywords: Mapping[str, Any] | None
    settings: Mapping[int, Mapping[str, Any]] | None
    impls: tuple[str, ...] | None
    words: Mapping[str, str]
    year: int | None

    def settings_at(self, stride: int) -> dict[str, Any]:
        return settings_at(self.settings or {}, stride)


@functools.cache
def outline(path: Path) -> Outline:
    """Reads `path` as text. Raises BrokenAttention for a file that is not there or not Python.

    This is how a wrong hyper-parameter is answered at once, without the seconds that importing
    torch takes.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except OSError as error:
        raise BrokenAttention(f"{path.name} cannot be read: {error.strerror}") from error
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise BrokenAttention(f"{path.name} is not valid Python: {error}") from error
    fields = _spec_fields(tree)
    docstring = ast.get_docstring(tree) or ""
    return Outline(
        summary=_first_sentence(docstring),
        keywords=_keywords(fields, tree, path.parent),
        settings=_literal(fields["settings"]) if "settings" in fields else {},
        impls=_literal(fields["impls"]) if "impls" in fields else ("eager",),
        words={
            name: text for name, node in fields.items() if isinstance(text := _literal(node), str)
        },
        year=_year(fields.get("paper")),
    )


def _first_sentence(docstring: str) -> str:
    """Up to the full stop before a new sentence, on one line."""
    paragraph = docstring.partition("\n\n")[0].replace("\n", " ")
    match = re.match(r".*?[.](?=\s+[A-Z]|$)", paragraph)
    return match[0] if match else paragraph


def _year(paper: ast.expr | None) -> int | None:
    """The year of the arXiv identifier of `Paper(..., arxiv="2205.13213", ...)`."""
    if not isinstance(paper, ast.Call):
        return None
    arxiv = next((_literal(word.value) for word in paper.keywords if word.arg == "arxiv"), None)
    return year_of(arxiv) if isinstance(arxiv, str) else None


def _spec_fields(tree: ast.Module) -> dict[str, ast.expr]:
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Call):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(name, ast.Name) and name.id == "ATTENTION" for name in targets):
            return {word.arg: word.value for word in node.value.keywords if word.arg}
    return {}


def _keywords(
    fields: Mapping[str, ast.expr], tree: ast.Module, folder: Path
) -> dict[str, Any] | None:
    """Hyper-parameters by the fields of `params`, else by the signature of `module`."""
    if isinstance(params := fields.get("params"), ast.Name):
        return _defaults_of_fields(params.id, tree, folder)
    module = fields.get("module")
    definition = _definition(module.id, tree) if isinstance(module, ast.Name) else None
    if isinstance(definition, ast.ClassDef):
        definition = _definition("__init__", definition)
    return _defaults(definition.args) if isinstance(definition, ast.FunctionDef) else None


def _definition(name: str, body: ast.Module | ast.ClassDef) -> ast.stmt | None:
    """The class or function of this name."""
    for node in body.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return node
    return None


def _defaults_of_fields(name: str, tree: ast.Module, folder: Path) -> dict[str, Any] | None:
    """The defaults of a dataclass, which the file defines or imports from a file beside it."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            beside = folder / f"{(node.module or '').rpartition('.')[2]}.py"
            if beside.is_file():
                return _defaults_of_fields(name, ast.parse(beside.read_text("utf-8")), folder)
    definition = _definition(name, tree)
    if not isinstance(definition, ast.ClassDef):
        return None
    defaults: dict[str, Any] = {}
    for base in definition.bases:
        if isinstance(base, ast.Name):
            defaults |= _defaults_of_fields(base.id, tree, folder) or {}
    for field in definition.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            defaults[field.target.id] = _literal(field.value)
    return defaults


def _defaults(arguments: ast.arguments) -> dict[str, Any] | None:
    if arguments.kwarg is not None:
        return None
    unset = [None] * (len(arguments.args) - len(arguments.defaults))
    positional = zip(arguments.args, [*unset, *arguments.defaults], strict=True)
    named = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    keywords = {argument.arg: _literal(default) for argument, default in (*positional, *named)}
    given = ("self", "dim", "num_heads", "grid", "impl")
    return {name: value for name, value in keywords.items() if name not in given}


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
