"""Classes of installed packages, imported and bound to a case's sizes."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attentions
from attentions import AttentionSpec, BrokenAttention, Grid
from vitbench.cases import class_names
from vitbench.errors import BadInput, nearest
from vitbench.subjects import backbones

if TYPE_CHECKING:
    from torch import nn


@functools.cache
def load(name: str) -> AttentionSpec:
    """The spec of `timm:layers.Attention2d` or `my.module:Class`. Raises BrokenAttention, whose
    message is one sentence.
    """
    try:
        place = class_names.locate(name)
    except BadInput as error:
        raise BrokenAttention(str(error)) from None
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(place.module)
    # Whatever a module raises while it is imported, the reader needs its name first.
    except (Exception, SystemExit) as error:
        raise BrokenAttention(
            f"{name}: {place.module} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    target = getattr(module, place.name, None)
    from torch import nn

    if target is None:
        classes = [n for n, found in vars(module).items() if isinstance(found, type)]
        raise BrokenAttention(
            f"{name}: {place.module} has no {place.name}; {nearest(place.name, classes)}"
        )
    is_class = isinstance(target, type) and issubclass(target, nn.Module)
    if not (is_class or inspect.isfunction(target)):
        kind = f"the class {place.name}" if isinstance(target, type) else type(target).__name__
        raise BrokenAttention(f"{name} must be a class of torch.nn.Module, got {kind}")
    package = class_names.package_of(place.top)
    return AttentionSpec(module=_Bound(name, target, package))  # type: ignore[arg-type] # it builds one


def attention_of(name: str, plugins: Mapping[str, Path]) -> AttentionSpec:
    """The spec of a mechanism, of the registry or of a plugin, or of a class."""
    return load(name) if class_names.is_class(name) else backbones.attention_of(name, plugins)


def target_of(spec: AttentionSpec) -> Callable[..., Any]:
    """The class or function that a spec builds its modules with."""
    return spec.module.target if isinstance(spec.module, _Bound) else spec.module


@dataclass(frozen=True)
class _Bound:
    """Builds the modules of a class.

    package  the installed distribution and its version, `timm-1.0.31`
    """

    name: str
    target: Callable[..., nn.Module]
    package: str

    def __call__(
        self,
        dim: int,
        num_heads: int,
        grid: Grid,
        *,
        package: str = "",
        layout: Any = None,
        **settings: Any,
    ) -> nn.Module:
        """The class gets dim, num_heads and grid by name, those that it takes, and the settings.

        package  what the case was planned with; "": any
        layout   one of attentions.LAYOUTS; None: it is found by trying

        Raises BrokenAttention for settings that it does not take, or that it needs; NoLayout where
        it runs in none.
        """
        if package and package != self.package:
            raise BrokenAttention(
                f"{self.name}: the case is of {package}, and {self.package or 'none'} is installed"
            )
        if layout is not None and layout not in attentions.LAYOUTS:
            hint = nearest(str(layout), attentions.LAYOUTS)
            raise BrokenAttention(f"{self.name}: no layout is called {layout!r}; {hint}")
        arguments = self._arguments(dim, num_heads, grid, settings)
        build = functools.partial(self._made, arguments)
        try:
            return attentions.laid_out(build, layout, dim, grid)
        except attentions.NoLayout as error:
            raise attentions.NoLayout(f"{error}{self._numbers(dim)}") from None

    def _numbers(self, dim: int) -> str:
        """The arguments that may have to follow the case, where the class takes no dim, as the end
        of a sentence."""
        taken = inspect.signature(self.target).parameters
        numbers = [name for name, word in taken.items() if type(word.default) is int]
        if "dim" in taken or not numbers:
            return ""
        return f"; it takes no dim, but {', '.join(numbers)}, as in {self.name}[{numbers[0]}=dim]"

    def _made(self, arguments: Mapping[str, Any]) -> nn.Module:
        module = self.target(**arguments)
        from torch import nn

        if not isinstance(module, nn.Module):
            raise BrokenAttention(
                f"{self.name} must give a torch.nn.Module, got {type(module).__name__}"
            )
        return module

    def _arguments(
        self, dim: int, num_heads: int, grid: Grid, settings: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Those of the constructor, by name. Raises BrokenAttention."""
        taken = inspect.signature(self.target).parameters
        numbers = (dim, num_heads, grid.height, grid.width, grid.tokens)
        words = dict(zip(class_names.WORDS, numbers, strict=True))
        given = {name: words.get(value, value) for name, value in settings.items()}
        is_open = any(word.kind is word.VAR_KEYWORD for word in taken.values())
        for name in given:
            if name not in taken and not is_open:
                known = [word.name for word in taken.values()]
                raise BrokenAttention(
                    f"{self.name} has no parameter {name!r}; {nearest(name, known)}"
                )
        offered = {"dim": dim, "num_heads": num_heads, "grid": grid}
        arguments = {name: offered[name] for name in offered if name in taken} | given
        missing = [
            word.name
            for word in taken.values()
            if word.default is word.empty
            and word.kind not in (word.VAR_POSITIONAL, word.VAR_KEYWORD)
            and word.name not in arguments
        ]
        if missing:
            example = f"{self.name}[{','.join(f'{name}=...' for name in missing)}]"
            raise BrokenAttention(
                f"{self.name} needs {', '.join(missing)}, which vitbench does not give: write "
                f"{example}, a number or one of the words {', '.join(words)}"
            )
        return arguments
