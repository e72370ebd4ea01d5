"""Modules that take another layout than a channels-last map, as mechanisms."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from attentions._attend import FeatureMap
from attentions._spec import LAYOUTS, Grid, Layout

# In which they are tried: a module of tokens that takes a map too would attend along its rows only.
_ORDER: tuple[Layout, ...] = ("bchw", "bnc_hw", "bnc_grid", "bnc", "bhwc")


class NoLayout(ValueError):
    """The layout of a module cannot be found by trying; the message says what was tried."""


class InLayout(nn.Module):
    """A module of a layout, as a module of channels-last maps. Name: module.

    Its first tensor is the map where it returns several. Raises ValueError where that is not of the
    shape of what went in.
    """

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__()
        self.module = module
        self.layout: Layout = layout

    def forward(self, x: FeatureMap) -> Any:
        _, height, width, _ = x.shape
        match self.layout:
            case "bchw":
                # In memory too: modules are written for such maps. `arranged` saves the copy.
                taken, more = x.permute(0, 3, 1, 2).contiguous(), ()
            case "bhwc":
                taken, more = x, ()
            case _:
                taken = x.flatten(1, 2)
                more = _SIZES[self.layout](height, width)
        output = self.module(taken, *more)
        if isinstance(output, Tensor):
            return self._map_of(output, taken, x)
        leaves, structure = pytree.tree_flatten(output)
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                leaves[index] = self._map_of(leaf, taken, x)
                break
        return pytree.tree_unflatten(leaves, structure)

    def _map_of(self, output: Tensor, taken: Tensor, x: FeatureMap) -> FeatureMap:
        if output.shape != taken.shape:
            raise ValueError(
                f"the module must keep the shape {tuple(taken.shape)}, and gives "
                f"{tuple(output.shape)}; its layout is {self.layout}, {LAYOUTS[self.layout]}"
            )
        return output.permute(0, 2, 3, 1) if self.layout == "bchw" else output.reshape(x.shape)


_SIZES: Mapping[Layout, Callable[[int, int], tuple[Any, ...]]] = {
    "bnc": lambda height, width: (),
    "bnc_hw": lambda height, width: (height, width),
    "bnc_grid": lambda height, width: ((height, width),),
}


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def laid_out(
    build: Callable[[], nn.Module], layout: Layout | None, dim: int, grid: Grid
) -> nn.Module:
    """The module that `build` makes, as one of channels-last maps; None: its layout is found.

    Raises NoLayout where it runs in none, and whatever `build` raises.
    """
    if layout is None:
        faults = fitting(build, dim, grid)
        fits = [layout for layout, fault in faults.items() if not fault]
        if not fits:
            tried = "; ".join(f"{layout}: {fault[:100]}" for layout, fault in faults.items())
            raise NoLayout(f"it runs in no layout on {grid} tokens of dim {dim}: {tried}")
        if len(fits) > 1 and dim in (grid.height, grid.width):
            raise NoLayout(
                f"its layout is not clear on {grid} tokens of dim {dim}: {', '.join(fits)} fit; "
                "name one"
            )
        layout = fits[0]
    module = build()
    return module if layout == "bhwc" else InLayout(module, layout)


def layout_of(module: nn.Module) -> Layout:
    """The layout that a mechanism's module takes inside."""
    return module.layout if isinstance(module, InLayout) else "bhwc"


def arranged(module: nn.Module, x: FeatureMap) -> FeatureMap:
    """The same map, in memory as the module takes it, so that no copy of it is measured."""
    if isinstance(module, InLayout) and module.layout == "bchw":
        return x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    return x


def fitting(build: Callable[[], nn.Module], dim: int, grid: Grid) -> dict[Layout, str]:
    """The layouts, the likeliest first, each with what speaks against it: "" where the module that
    `build` makes runs in it on a meta tensor of this size and keeps the shape.

    Raises whatever `build` raises. Draws no random numbers.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module = _on_meta(build)
        x = torch.empty(2, grid.height, grid.width, dim, device="meta")
        return {layout: _fault(module, layout, x) for layout in _ORDER}


def _on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Made there where that is possible, else moved."""
    try:
        with torch.device("meta"):
            return build().eval()
    except Exception:  # it reads what it made, which has no values there
        return build().eval().to("meta")


def _fault(module: nn.Module, layout: Layout, x: Tensor) -> str:
    given = 1 + len(_SIZES.get(layout, _SIZES["bnc"])(1, 1))
    words = inspect.signature(module.forward).parameters.values()
    needed = [
        word.name for word in words if word.default is word.empty and word.kind in _POSITIONAL
    ]
    # What is optional beyond the input, such as a mask, is no size.
    if len(needed) != given and not any(word.kind is word.VAR_POSITIONAL for word in words):
        return f"forward takes {', '.join(needed)}"
    try:
        output = InLayout(module, layout)(x)
    # A module that gets what it does not take may raise anything.
    except Exception as error:
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else ''}"
    first = next((leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)), None)
    if first is None:
        return "it gives no tensor"
    return "" if first.shape == x.shape else f"it gives the shape {tuple(first.shape)}"
