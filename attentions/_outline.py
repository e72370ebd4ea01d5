"""What a mechanism's file says, read from its text without running it."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attentions._files import parse
from attentions._spec import settings_at, year_of


class BrokenAttention(ImportError):
    """A mechanism's file cannot be used: it does not import, or it defines no ATTENTION."""


@dataclass(frozen=True, slots=True)
class Outline:
    """What can be read from a mechanism's file without running it.

    summary   first sentence of the module docstring
    defines   the names that the file defines or imports, at its top level
    keywords  hyper-parameters with their defaults; None where they cannot be read
    settings  the authors' hyper-parameters by stride; None where they are not a literal
    impls     implementations; None where they are not a literal
    words     the fields of the spec that are text and literal: family, cost, size_rule, kernels,
              equation
    year      of the paper; None where it names none
    space     values by hyper-parameter that go together: one product, or several
    """

    summary: str
    defines: frozenset[str]
    keywords: Mapping[str, Any] | None
    settings: Mapping[int, Mapping[str, Any]] | None
    impls: tuple[str, ...] | None
    words: Mapping[str, str]
    year: int | None
    space: tuple[Mapping[str, tuple[Any, ...]], ...] = ()

    def settings_at(self, stride: int) -> dict[str, Any]:
        return settings_at(self.settings or {}, stride)


@functools.cache
def outline(path: Path) -> Outline:
    """Reads `path` as text. Raises BrokenAttention for a file that is not there or not Python, or
    whose spec has fields of another form.

    This is how a wrong hyper-parameter is answered at once, without the seconds that importing
    torch takes.
    """
    try:
        tree = parse(path)
    except OSError as error:
        raise BrokenAttention(f"{path.name} cannot be read: {error.strerror}") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BrokenAttention(f"{path.name} is not valid Python: {error}") from error
    fields = _spec_fields(tree)
    return Outline(
        summary=_first_sentence(ast.get_docstring(tree) or ""),
        defines=frozenset(_names_in(tree)),
        keywords=_keywords(fields, _Source(tree, path.parent)),
        settings=_settings(fields.get("settings"), path),
        impls=_impls(fields.get("impls"), path),
        words={
            name: text for name, node in fields.items() if isinstance(text := _literal(node), str)
        },
        year=_year(fields.get("paper")),
        space=_space(fields.get("space"), path),
    )


@functools.cache
def outline_of_class(path: Path, name: str) -> Outline:
    """The same of a class or function of this name, which the file at `path` defines or imports
    from a file beside it: its docstring and its arguments. Raises BrokenAttention.
    """
    about = outline(path)
    found = _Source(parse(path), path.parent).find(name)
    keywords, summary = None, ""
    if found is not None:
        keywords = _keywords_of(found)
        summary = _first_sentence(ast.get_docstring(found.node) or "")
    return Outline(summary, about.defines, keywords, {}, ("eager",), {}, None)


def names_in(path: Path) -> frozenset[str] | None:
    """The names that the file at `path` defines or imports, also those that it imports by a star
    from files beside it; None where that cannot be read. Raises BrokenAttention."""
    names = outline(path).defines
    if "__getattr__" in names:
        return None
    for node in parse(path).body if "*" in names else ():
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            beside = path.parent / f"{node.module}.py"
            found = names_in(beside) if node.level == 1 and beside.is_file() else None
            if found is None:
                return None
            names |= found
    return names - {"*"}


def arguments_of(path: Path, name: str) -> frozenset[str]:
    """What a class or function takes by name, where that can be read from the file at `path` and
    those beside it. Raises BrokenAttention."""
    outline(path)
    found = _Source(parse(path), path.parent).find(name)
    arguments = None if found is None else _arguments_of(found)
    if arguments is None:
        return frozenset()
    named = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    return frozenset(argument.arg for argument in named)


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
    return year_of(arxiv) if isinstance(arxiv, str) and arxiv[:2].isdecimal() else None


def _targets(node: ast.stmt) -> list[ast.expr]:
    """What an assignment assigns to."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _names_in(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        else:
            yield from (target.id for target in _targets(node) if isinstance(target, ast.Name))


def _spec_fields(tree: ast.Module) -> dict[str, ast.expr]:
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Call):
            continue
        if any(isinstance(name, ast.Name) and name.id == "ATTENTION" for name in _targets(node)):
            return {word.arg: word.value for word in node.value.keywords if word.arg}
    return {}


def _settings(node: ast.expr | None, path: Path) -> Mapping[int, Mapping[str, Any]] | None:
    if node is None:
        return {}
    settings = _literal(node)
    is_right = isinstance(settings, dict) and all(
        isinstance(stride, int) and stride > 0 and isinstance(values, dict)
        for stride, values in settings.items()
    )
    if settings is not None and not is_right:
        raise BrokenAttention(
            f"{path.name}: settings are hyper-parameters by stride, such as {{16: {{'window': 7}}}}"
            f", got {settings!r}"
        )
    return settings


def _space(node: ast.expr | None, path: Path) -> tuple[Mapping[str, tuple[Any, ...]], ...]:
    products = _literal(node)
    if products is None:
        return ()
    if isinstance(products, dict):
        products = (products,)
    is_right = isinstance(products, tuple | list) and all(
        isinstance(product, dict)
        and all(isinstance(v, tuple | list) and v for v in product.values())
        for product in products
    )
    if not is_right:
        raise BrokenAttention(
            f"{path.name}: a space is values by hyper-parameter, such as {{'window_size': (2, 4)}}"
            f", or several of these, got {products!r}"
        )
    return tuple({name: tuple(values) for name, values in each.items()} for each in products)


def _impls(node: ast.expr | None, path: Path) -> tuple[str, ...] | None:
    if node is None:
        return ("eager",)
    impls = _literal(node)
    if impls is None:
        return None
    if not (isinstance(impls, tuple | list) and impls and all(isinstance(i, str) for i in impls)):
        raise BrokenAttention(
            f"{path.name}: impls are a tuple of names, such as ('eager', 'fused'), got {impls!r}"
        )
    return tuple(impls)


@dataclass(frozen=True, slots=True)
class _Source:
    """A file's syntax tree, and the folder it lies in."""

    tree: ast.Module
    folder: Path

    def find(self, name: str, seen: frozenset[Path] = frozenset()) -> _Found | None:
        """The class or function of this name, which the file defines, or imports from a file
        beside it.
        """
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
                return _Found(node, self)
        for node in self.tree.body:
            if not isinstance(node, ast.ImportFrom):
                continue
            imported = {alias.asname or alias.name: alias.name for alias in node.names}
            file = self.folder / f"{(node.module or '').rpartition('.')[2]}.py"
            if name not in imported or file in seen or not file.is_file():
                continue
            try:
                tree = parse(file)
            except (OSError, SyntaxError, ValueError, RecursionError):
                return None  # importing the file says what is wrong
            return _Source(tree, self.folder).find(imported[name], seen | {file})
        return None


@dataclass(frozen=True, slots=True)
class _Found:
    """A class or function, and the file that it stands in."""

    node: ast.ClassDef | ast.FunctionDef
    source: _Source


def _keywords(fields: Mapping[str, ast.expr], source: _Source) -> dict[str, Any] | None:
    """Hyper-parameters by the fields of `params`, else by the signature of `module`."""
    if isinstance(params := fields.get("params"), ast.Name):
        return _defaults_of_fields(params.id, source)
    module = fields.get("module")
    found = source.find(module.id) if isinstance(module, ast.Name) else None
    return None if found is None else _keywords_of(found)


def _keywords_of(found: _Found) -> dict[str, Any] | None:
    """Hyper-parameters by the signature of a class or function."""
    arguments = _arguments_of(found)
    bound = int(isinstance(found.node, ast.ClassDef))
    return None if arguments is None else _defaults(arguments, bound)


def _arguments_of(found: _Found) -> ast.arguments | None:
    """Those of a function, or of the constructor that a class defines."""
    if isinstance(found.node, ast.FunctionDef):
        return found.node.args
    for node in found.node.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return node.args
    return None


def _defaults_of_fields(
    name: str, source: _Source, inside: frozenset[ast.ClassDef] = frozenset()
) -> dict[str, Any] | None:
    """The defaults of a dataclass and of the classes that it extends; None where one of them is
    not to be read.
    """
    found = source.find(name)
    if found is None or not isinstance(found.node, ast.ClassDef) or found.node in inside:
        return None
    defaults: dict[str, Any] = {}
    for base in found.node.bases:
        if isinstance(base, ast.Name):
            of_base = _defaults_of_fields(base.id, found.source, inside | {found.node})
            defaults |= of_base or {}
    for field in found.node.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            defaults[field.target.id] = _literal(field.value)
    return defaults


def _defaults(arguments: ast.arguments, bound: int) -> dict[str, Any] | None:
    """Arguments with their defaults, less the first ones that are bound (self) and those that the
    benchmark gives.
    """
    if arguments.kwarg is not None:
        return None
    named = [*arguments.posonlyargs, *arguments.args]
    unset = [None] * (len(named) - len(arguments.defaults))
    positional = list(zip(named, [*unset, *arguments.defaults], strict=True))[bound:]
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    defaults = {argument.arg: _literal(node) for argument, node in (*positional, *keywords)}
    given = ("dim", "num_heads", "grid", "impl")
    return {name: value for name, value in defaults.items() if name not in given}


def _literal(node: ast.expr | None) -> Any:
    if node is None:
        return None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
