"""Modules in every layout: the same function, and the layout that a module takes, by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import attentions
from attentions import AttentionSpec, Grid, Layout

Forward = Callable[..., Any]


def mix(x: Tensor) -> Tensor:
    """Attention of tokens without projections, its own queries, keys and values."""
    scores = x @ x.transpose(-2, -1) * x.shape[-1] ** -0.5
    return scores.softmax(-1) @ x


def on_map(x: Tensor) -> Tensor:
    """The same on a channels-last map, with what depends on the place."""
    batch, height, width, dim = x.shape
    ramp = torch.arange(height * width, dtype=x.dtype, device=x.device).view(height, width, 1)
    return mix((x * ramp).reshape(batch, height * width, dim)).view(x.shape)


class Plain(nn.Module):
    """No projection; a layout is what `forward` takes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))


class Last(Plain):
    """A channels-last map."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.dim() == 4
        return on_map(x * self.scale)


class First(Plain):
    """A channels-first map."""

    def forward(self, x: Tensor) -> Tensor:
        x = (x * self.scale.view(-1, 1, 1)).view(x.shape)  # which takes a contiguous map
        return on_map(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Tokens(Plain):
    """Tokens; the mask is no height."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        _, tokens, _ = x.shape
        ramp = torch.arange(tokens, dtype=x.dtype, device=x.device).view(tokens, 1)
        return mix(x * self.scale * ramp)


class WithSizes(Plain):
    """Tokens, height and width."""

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return on_map((x * self.scale).unflatten(1, (height, width))).flatten(1, 2)


class WithGrid(Plain):
    """Tokens and a pair."""

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return on_map((x * self.scale).unflatten(1, size)).flatten(1, 2)


MODULES: dict[Layout, type[Plain]] = {
    "bhwc": Last,
    "bchw": First,
    "bnc": Tokens,
    "bnc_hw": WithSizes,
    "bnc_grid": WithGrid,
}
GRID, DIM = Grid(3, 5), 8


def built(layout: Layout) -> nn.Module:
    spec = AttentionSpec(module=MODULES[layout], layout=layout)
    return spec.build(DIM, 2, GRID, impl="eager").double()


@pytest.mark.parametrize("layout", MODULES)
def test_the_same_in_every_layout(layout: Layout) -> None:
    """Output and gradients in fp64 on a map that is not square are those of the equations; also
    on another map than the module was built for."""
    module = built(layout)
    for height, width in ((3, 5), (4, 2)):
        x = torch.randn(2, height, width, DIM, dtype=torch.float64, requires_grad=True)
        found, expected = module(x), on_map(x * next(module.parameters()))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
        parts = [x, *module.parameters()]
        for ours, theirs in zip(
            torch.autograd.grad(found.sin().sum(), parts),
            torch.autograd.grad(expected.sin().sum(), parts),
            strict=True,
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_every_layout_is_described() -> None:
    """The names, their descriptions and the modules above agree; another name is refused."""
    assert tuple(attentions.LAYOUTS) == get_args(Layout) == tuple(MODULES)
    with pytest.raises(ValueError, match=r"layout is one of bhwc, .*bnc_grid, got 'nchw'"):
        AttentionSpec(module=Last, layout=cast("Any", "nchw"))


@pytest.mark.parametrize("layout", MODULES)
def test_the_layout_is_found(layout: Layout) -> None:
    """By trying on a meta tensor; the module that is found runs, and no random number is drawn."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    faults = attentions.fitting(lambda: MODULES[layout](DIM), DIM, GRID)
    assert torch.equal(torch.get_rng_state(), before)
    assert [name for name, fault in faults.items() if not fault] == [layout]
    module = attentions.laid_out(lambda: MODULES[layout](DIM), None, DIM, GRID).double()
    assert attentions.layout_of(module) == layout
    x = torch.randn(1, 3, 5, DIM, dtype=torch.float64)
    torch.testing.assert_close(module(x), on_map(x), rtol=0, atol=1e-13)


def test_no_layout_is_found() -> None:
    """Where the module changes the number of channels, or cannot run: every layout is named with
    what speaks against it."""
    with pytest.raises(
        ValueError, match=r"runs in no layout on 3 x 5 tokens of dim 8: bchw: .*bnc: "
    ):
        attentions.laid_out(lambda: nn.Linear(DIM, 9), None, DIM, GRID)


def test_a_square_map_of_as_many_channels() -> None:
    """A layout is not guessed where channels and a side of the map could be taken for each other;
    elsewhere tokens come before a channels-last map, whose rows alone would attend."""
    with pytest.raises(ValueError, match="is not clear on 4 x 4 tokens of dim 4: bchw, bnc, bhwc"):
        attentions.laid_out(lambda: nn.Linear(4, 4), None, 4, Grid(4, 4))
    module = attentions.laid_out(lambda: nn.Linear(4, 4), None, 4, Grid(3, 5))
    assert attentions.layout_of(module) == "bnc"


class Several(nn.Module):
    """The map, and what it was made from."""

    def __init__(self, kind: type) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        return {"map": -x, "weights": x} if self.kind is dict else self.kind((-x, x))


@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_the_first_tensor_is_the_map(kind: type) -> None:
    """What else is returned stays as it is."""
    module = attentions.laid_out(lambda: Several(kind), "bchw", DIM, GRID)
    x = torch.randn(2, 3, 5, DIM)
    output: Any = module(x)
    assert type(output) is kind
    first, second = pytree.tree_leaves(output)
    assert torch.equal(first, -x)
    assert torch.equal(second, x.permute(0, 3, 1, 2))


def test_another_shape_is_a_sentence() -> None:
    """Shapes of the layout, not of the map: the reader knows those."""
    module = attentions.laid_out(lambda: nn.Conv2d(DIM, 9, 1), "bchw", DIM, GRID)
    with pytest.raises(ValueError, match=r"shape \(2, 8, 3, 5\), .* \(2, 9, 3, 5\); .*bchw"):
        module(torch.randn(2, 3, 5, DIM))


def test_no_copy_is_measured() -> None:
    """A map that is arranged for the module reaches it as it lies in memory."""
    seen: list[int] = []

    class Watching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.is_contiguous()
            seen.append(x.data_ptr())
            return x

    for layout in MODULES:
        if layout in ("bnc_hw", "bnc_grid"):
            continue
        module = attentions.laid_out(Watching, layout, DIM, GRID)
        x = torch.randn(2, 3, 5, DIM)
        arranged = attentions.arranged(module, x)
        assert torch.equal(arranged, x)
        assert torch.equal(module(arranged), x)
        assert seen[-1] == arranged.data_ptr()


@pytest.mark.parametrize("layout", ["bchw", pytest.param("bnc_grid", marks=pytest.mark.slow)])
def test_it_can_be_exported(layout: Layout) -> None:
    """As runtimes that convert a module do it."""
    module = built(layout).eval()
    x = torch.randn(2, 3, 5, DIM, dtype=torch.float64)
    program = torch.export.export(module, (x,))
    torch.testing.assert_close(program.module()(x), module(x), rtol=0, atol=1e-13)
