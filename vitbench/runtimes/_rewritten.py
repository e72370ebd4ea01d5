"""A module that torch exported, with other operators for some of its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

# By operator, what computes the same; it may return NotImplemented.
Rewrites = Mapping[Any, Callable[..., Any]]


class Rewritten(nn.Module):
    """The same function, to be exported again.

    kept  names of the nodes that stay as they are
    """

    def __init__(self, module: GraphModule, rewrites: Rewrites, kept: Collection[str] = ()) -> None:
        super().__init__()
        self.module, self._rewrites, self._kept = module, rewrites, kept

    def forward(self, x: Tensor) -> Any:
        return _Rewriter(self.module, self._rewrites, self._kept).run(x)


class _Rewriter(Interpreter):
    """Runs a graph with the other operators."""

    def __init__(self, module: GraphModule, rewrites: Rewrites, kept: Collection[str]) -> None:
        super().__init__(module)
        self._rewrites, self._kept = rewrites, kept

    def run_node(self, n: Node) -> Any:
        rewrite = None if n.name in self._kept else self._rewrites.get(n.target)
        if rewrite is not None:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            result = rewrite(*args, **kwargs)
            if result is not NotImplemented:
                return result
        return super().run_node(n)
