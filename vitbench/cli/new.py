"""`vitbench new`: a file with a mechanism, and its test, to start from."""

from __future__ import annotations

import contextlib
import keyword
import os
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from string import Template
from typing import Annotated

import typer

import attentions
from vitbench.errors import BadInput, nearest, writing


def new(
    name: Annotated[str, typer.Argument(help="Name of the mechanism, and of its file.")],
    layout: Annotated[
        str, typer.Option(help=f"What it takes: {', '.join(attentions.LAYOUTS)}.")
    ] = "bhwc",
) -> None:
    """Write NAME.py, a mechanism to start from, and test_NAME.py, its test. Overwrites nothing."""
    if layout not in attentions.LAYOUTS:
        raise BadInput(f"no layout is called {layout!r}; {nearest(layout, attentions.LAYOUTS)}")
    texts = {
        Path(f"{name}.py"): _filled(_FILE, name, layout),
        Path(f"test_{name}.py"): _filled(_TEST, name, layout),
    }
    _check(name, texts)
    with contextlib.ExitStack() as undo:
        for path, text in texts.items():
            with writing(path), path.open("x", encoding="utf-8") as file:
                undo.callback(path.unlink)  # of two files none is left alone
                file.write(text)
        undo.pop_all()
    print(f"{name}.py: the mechanism, {attentions.LAYOUTS[layout]}")
    print(f"test_{name}.py: its test, pytest test_{name}.py")
    print(f"vitbench run --plugin {name}.py --attention {name},msa")


def _check(name: str, texts: Mapping[Path, str]) -> None:
    """Raises BadInput for a name that a plugin cannot have, and for files that are there."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise BadInput(f"a mechanism's name is a Python identifier such as my_mixer, got {name!r}")
    if name in attentions.names():
        raise BadInput(f"{name} is a mechanism of vitbench; choose another name")
    for path in texts:
        if os.path.lexists(path):
            raise BadInput(f"{path} exists; choose another name")
    if name in sys.stdlib_module_names or PathFinder.find_spec(name) is not None:
        raise BadInput(f"{name}.py would hide the module {name}; choose another name")


def _filled(text: str, name: str, layout: str) -> str:
    words = (word[:1].upper() + word[1:] for word in name.split("_"))
    class_name = "".join(words) or "Mixer"
    values = {"name": name, "layout": layout, "takes": attentions.LAYOUTS[layout]}
    return Template(text).substitute(values, class_name=class_name, forward=_FORWARD[layout])


_FILE = '''\
"""${class_name}: say in one sentence what it is. `vitbench info` shows this sentence.

Then the paper, and what differs from its code.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from attentions import AttentionSpec, Grid


class ${class_name}(nn.Module):
    """Attention of every token to every token: change it into yours.

    vitbench builds one module for each size that it measures. It gives dim (channels), num_heads,
    grid (height and width in tokens) and impl, those that are named here. The other arguments are
    hyper-parameters: --param ${name}.qkv_bias=true,false sweeps one.
    """

    def __init__(self, dim: int, num_heads: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

${forward}

    def attend(self, tokens: Tensor) -> Tensor:
        """Tokens (batch, height * width, dim) to the same shape."""
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, dim))


def macs(dim: int, num_heads: int, grid: Grid, *, qkv_bias: bool = True) -> int:
    """Multiply-accumulates of one image: 4 N C^2 + 2 N^2 C. vitbench checks it against what it
    counts; without it the counted ones are used."""
    return 4 * grid.tokens * dim**2 + 2 * grid.tokens**2 * dim


def unsupported(dim: int, num_heads: int, grid: Grid, *, qkv_bias: bool = True) -> str | None:
    """Why it cannot run at this size, in words; None where it can."""
    return None


ATTENTION = AttentionSpec(
    module=${class_name},
    layout="${layout}",  # ${takes}
    family="global",  # what kind it is: attentions.FAMILIES names them
    equation="softmax(Q K^T / sqrt(d)) V",
    cost="4NC^2 + 2N^2C",
    macs=macs,
    unsupported=unsupported,
)
'''

# How each layout becomes tokens and back.
_FORWARD = {
    "bhwc": '''\
    def forward(self, x: Tensor) -> Tensor:
        """A map (batch, height, width, dim) to the same shape."""
        return self.attend(x.flatten(1, 2)).view(x.shape)''',
    "bchw": '''\
    def forward(self, x: Tensor) -> Tensor:
        """A map (batch, dim, height, width) to the same shape."""
        tokens = x.flatten(2).transpose(1, 2)
        return self.attend(tokens).transpose(1, 2).reshape(x.shape)''',
    "bnc": '''\
    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, height * width, dim) to the same shape."""
        return self.attend(x)''',
    "bnc_hw": '''\
    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Tokens (batch, height * width, dim) to the same shape."""
        grid = x.unflatten(1, (height, width))  # for what needs neighbours
        return self.attend(grid.flatten(1, 2))''',
    "bnc_grid": '''\
    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens (batch, height * width, dim) to the same shape."""
        grid = x.unflatten(1, size)  # for what needs neighbours
        return self.attend(grid.flatten(1, 2))''',
}

_TEST = '''\
"""What holds of ${name}, whatever its weights: pytest test_${name}.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import attentions
from attentions import Grid

SPEC = attentions.load_file(Path(__file__).with_name("${name}.py"))
# Odd, and not square: what holds for squares alone fails here.
GRIDS = [Grid(4, 4), Grid(5, 7)]
DIM, HEADS = 32, 4


def built(grid: Grid) -> nn.Module:
    """In double precision. It takes a map (batch, height, width, dim) whatever its layout."""
    torch.manual_seed(0)
    return SPEC.build(DIM, HEADS, grid, impl="eager").double()


def drawn(grid: Grid, batch: int) -> torch.Tensor:
    return torch.randn(batch, grid.height, grid.width, DIM, dtype=torch.float64)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_images_do_not_meet(grid: Grid) -> None:
    """The shape is kept, and an image gives alone what it gives in a batch."""
    module, x = built(grid).eval(), drawn(grid, 3)
    with torch.no_grad():
        together, alone = module(x), module(x[1:2])
    assert together.shape == x.shape
    torch.testing.assert_close(together[1:2], alone)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_every_parameter_is_trained(grid: Grid) -> None:
    """The gradient of the output reaches the input and every parameter."""
    module, x = built(grid), drawn(grid, 2).requires_grad_()
    module(x).square().sum().backward()
    gradients = {"x": x.grad} | {name: p.grad for name, p in module.named_parameters()}
    missing = [name for name, g in gradients.items() if g is None or not g.isfinite().all()]
    assert not missing


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_closed_form_is_counted(grid: Grid) -> None:
    """One image's multiply-accumulates, as torch counts them."""
    if SPEC.macs is None:
        pytest.skip("no closed form is given")
    module, x = built(grid).eval(), drawn(grid, 1)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        module(x)
    assert SPEC.macs(DIM, HEADS, grid) == counter.get_total_flops() // 2
'''
