"""Cases of one mechanism: dim, heads, grid and hyper-parameters, at random and by hand.

A mechanism's own test file names the values to draw from:

    PARAMS: dict[str, list[Any]] = {"window_size": [2, 3, 7], "qkv_bias": [True, False]}

What else it states is listed in test_definition.py.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import attentions
from attentions import Grid

HEADS = (1, 2, 3, 4, 6)
HEAD_DIMS = (4, 8, 16, 32)
SIDES = range(1, 21)


@dataclass(frozen=True, slots=True)
class Draw:
    """One case that its mechanism supports."""

    name: str
    dim: int
    num_heads: int
    grid: Grid
    params: Mapping[str, Any]

    def build(self, impl: str = "eager") -> nn.Module:
        """With the same weights on every run, and in every implementation."""
        spec = attentions.load(self.name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = spec.build(self.dim, self.num_heads, self.grid, impl=impl, **self.params)
        return module.eval()

    def input(self, batch: int = 1, seed: int = 0) -> Tensor:
        """A normal feature map in fp32."""
        shape = (batch, self.grid.height, self.grid.width, self.dim)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def exact(self, impl: str = "eager") -> Any:
        """In fp64, with every parameter moved off its special starting value."""
        return shake(self.build(impl)).double()

    @property
    def reason(self) -> str | None:
        spec = attentions.load(self.name)
        return spec.reason_against(self.dim, self.num_heads, self.grid, **self.params)

    @property
    def macs(self) -> int:
        """By the closed form."""
        closed_form = attentions.load(self.name).macs
        assert closed_form is not None, f"{self.name} has no closed form"
        return closed_form(self.dim, self.num_heads, self.grid, **self.params)


def case(name: str, dim: int, num_heads: int, height: int, width: int, **params: Any) -> Draw:
    """A case written by hand, supported or not."""
    return Draw(name, dim, num_heads, Grid(height, width), params)


def file_of(name: str) -> ModuleType:
    """tests/attentions/test_<name>.py. Raises LookupError where it is missing."""
    try:
        return importlib.import_module(f"tests.attentions.test_{name}")
    except ModuleNotFoundError as error:
        if error.name != f"tests.attentions.test_{name}":
            raise
        raise LookupError(f"{name} has no tests: write test_{name}.py") from error


def params_of(name: str) -> dict[str, list[Any]]:
    """PARAMS of the mechanism's test file: hyper-parameter -> values to draw from."""
    return file_of(name).PARAMS


def draws(name: str, count: int) -> Iterator[Draw]:
    """`count` supported cases of mechanism `name`, the same on every run.

    dim is heads x head_dim, the sides of the grid are two different numbers from 1 to 20. A case
    that the mechanism calls unsupported is drawn again, so what is tested is what it claims to
    run. Raises AssertionError where fewer than one draw in fifty is supported: then PARAMS or
    `unsupported` deserves a look.
    """
    rng = random.Random(name)
    values = params_of(name)
    left = 50 * count
    for _ in range(count):
        while True:
            left -= 1
            assert left >= 0, f"{name}: fewer than one draw in fifty is supported, check PARAMS"
            height, width = rng.sample(SIDES, 2)
            draw = _draw(name, values, rng, Grid(height, width))
            if draw.reason is None:
                yield draw
                break


def draws_on(name: str, grid: Grid, count: int) -> list[Draw]:
    """Up to `count` supported cases on this grid; none where nothing in PARAMS supports it."""
    rng = random.Random(f"{name} {grid}")
    values = params_of(name)
    drawn = (_draw(name, values, rng, grid) for _ in range(40))
    return [draw for draw in drawn if draw.reason is None][:count]


def _draw(name: str, values: Mapping[str, list[Any]], rng: random.Random, grid: Grid) -> Draw:
    heads = rng.choice(HEADS)
    params = {key: rng.choice(choices) for key, choices in values.items()}
    return Draw(name, heads * rng.choice(HEAD_DIMS), heads, grid, params)


def is_sentence(reason: str | None) -> bool:
    """Whether a reason for an unsupported case is words."""
    return reason is not None and len(reason.split()) >= 4 and reason == reason.strip()


def shake(module: nn.Module, seed: int = 0) -> nn.Module:
    """Moves every parameter by a random step, in place, and returns the module.

    Layers start at special values (scales of one, biases and offsets of zero) that would hide a
    bias left out or a scale applied twice. Running statistics of batch norms move as well. The step
    of a matrix is divided by the root of its width, as its weights are: what it makes stays of the
    size that it has in use, and so do its rounding errors.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            width = parameter[0].numel() if parameter.dim() > 1 else 1
            step = torch.randn(parameter.shape, generator=generator)
            parameter.add_(step, alpha=0.1 if width == 1 else 0.3 / width**0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(torch.randn(buffer.shape, generator=generator), alpha=0.1)
            elif name.endswith("running_var"):
                buffer.mul_(1 + torch.rand(buffer.shape, generator=generator))
    return module


def parameters(draw: Draw) -> int:
    """How many the mechanism has there."""
    return sum(parameter.numel() for parameter in draw.build().parameters())


def layers(weights: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of layers with these weights, and a bias for each of their outputs."""
    named = {f"{name}.weight": shape for name, shape in weights.items()}
    return named | {f"{name}.bias": shape[:1] for name, shape in weights.items()}


def moved_by(module: nn.Module, x: Tensor, row: int, column: int) -> Tensor:
    """Which tokens (height, width) of the output change with one token of the input."""
    changed = x.clone()
    changed[:, row, column] += 10  # enough to be the largest of all, whatever a layer picks by
    with torch.inference_mode():
        return ((module(changed) - module(x)).abs() > 1e-12).any(-1).any(0)


def block(length: int, index: int, size: int, shift: int = 0) -> Tensor:
    """Which positions of a side share a block of `size` with `index`; blocks begin at `shift`."""
    return (torch.arange(length) - shift) // size == (index - shift) // size


def as_msa(module: nn.Module, draw: Draw, projections: tuple[str, ...], out: str) -> nn.Module:
    """MSA with the weights of a module that projects queries, keys and values apart."""
    state = module.state_dict()
    weights = [state[f"{name}.weight"].flatten(1) for name in projections]
    msa = Draw("msa", draw.dim, draw.num_heads, draw.grid, {}).exact()
    msa.load_state_dict(
        {
            "qkv.weight": torch.cat(weights),
            "qkv.bias": torch.cat([state[f"{name}.bias"] for name in projections]),
            "proj.weight": state[f"{out}.weight"],
            "proj.bias": state[f"{out}.bias"],
        }
    )
    return msa
