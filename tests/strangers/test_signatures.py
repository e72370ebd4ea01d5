"""Modules as strangers write their `__init__` and `forward`: bound by name, or refused in words."""

from __future__ import annotations

import ast
import keyword
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import attentions
from attentions import Grid
from tests.vitbench.examples import plugin
from vitbench.engine.planning import make_plan
from vitbench.errors import BadInput
from vitbench.subjects.describe import reasons_against

_HEAD = """\
import dataclasses, functools
import torch
from torch import nn
from attentions import AttentionSpec

class Base(nn.Module):
    def __init__(self, dim, num_heads=8, *, qkv_bias=False):
        super().__init__()
        self.got = dim, num_heads, qkv_bias

"""

# What stands in the file, and what `got` is at dim 64 with 4 heads; a text: why it is refused.
STYLES: dict[str, tuple[str, object]] = {
    "a flag where vitbench has the grid": (
        "class Net(Base):\n    def __init__(self, dim, num_heads=8, qkv_bias=False):\n"
        "        super().__init__(dim, num_heads, qkv_bias=qkv_bias)",
        (64, 4, False),
    ),
    "open keywords": (
        "class Net(Base):\n    def __init__(self, dim, num_heads=8, **kwargs):\n"
        "        super().__init__(dim, num_heads, **kwargs)",
        (64, 4, False),
    ),
    "passes all on": (
        "class Net(Base):\n    def __init__(self, *args, **kwargs):\n"
        "        super().__init__(*args, **kwargs)",
        (64, 4, False),
    ),
    "passes on what it does not name": (
        "class Net(Base):\n    def __init__(self, window=7, **kwargs):\n"
        "        super().__init__(**kwargs)",
        (64, 4, False),
    ),
    "inherits its constructor": ("class Net(Base): ...", (64, 4, False)),
    "keywords alone": (
        "class Net(Base):\n    def __init__(self, *, num_heads, dim):\n"
        "        super().__init__(dim, num_heads)",
        (64, 4, False),
    ),
    "positions alone": (
        "class Net(Base):\n    def __init__(self, dim, num_heads, /):\n"
        "        super().__init__(dim, num_heads)",
        (64, 4, False),
    ),
    "positions alone, after one that has a default": (
        "class Net(Base):\n    def __init__(self, window=7, dim=8, num_heads=8, /):\n"
        "        super().__init__(dim, num_heads)\n        self.got += (window,)",
        (64, 4, False, 7),
    ),
    "another order": (
        "class Net(Base):\n    def __init__(self, grid, num_heads, dim):\n"
        "        super().__init__(dim, num_heads)\n        self.got += (grid.tokens,)",
        (64, 4, False, 9),
    ),
    "self by another name": (
        "class Net(Base):\n    def __init__(this, dim):\n        Base.__init__(this, dim)",
        (64, 8, False),
    ),
    "a function that gives a module": (
        "def Net(dim, num_heads):\n    return Base(dim, num_heads)",
        (64, 4, False),
    ),
    "a partial": ("Net = functools.partial(Base, qkv_bias=True)", (64, 4, True)),
    "a lambda": ("Net = lambda dim: Base(dim)", (64, 8, False)),
    "a sequence": (
        "class Net(nn.Sequential):\n    def __init__(self, dim):\n"
        "        super().__init__(nn.LayerNorm(dim), nn.Linear(dim, dim))\n"
        "        self.got = (dim,)",
        (64,),
    ),
    "lazy parameters": (
        "class Net(nn.LazyLinear):\n    def __init__(self, dim):\n"
        "        super().__init__(dim)\n        self.got = (dim,)",
        (64,),
    ),
    "annotations that are not there": (
        "class Net(Base):\n    def __init__(self, dim: 'Missing', num_heads: 'np.int64' = 8):\n"
        "        super().__init__(dim, num_heads)",
        (64, 4, False),
    ),
    "a dataclass": (
        "@dataclasses.dataclass(eq=False)\nclass Net(nn.Module):\n"
        "    dim: int\n    num_heads: int = 8\n"
        "    def __post_init__(self):\n        super().__init__()\n"
        "        self.got = self.dim, self.num_heads",
        (64, 4),
    ),
    "names in Unicode": (
        "class Größe(Base): ...\nNet = Größe",
        (64, 4, False),
    ),
    "heads by another name": (
        "class Net(Base):\n    def __init__(self, dim, heads):\n"
        "        super().__init__(dim, heads)",
        "Net needs heads; it is given dim, num_heads, grid, impl and its hyper-parameters",
    ),
    "dim by another name": (
        "class Net(Base):\n    def __init__(self, embed_dim, num_heads):\n"
        "        super().__init__(embed_dim, num_heads)",
        "Net needs embed_dim; it is given",
    ),
    "a configuration": (
        "class Net(Base):\n    def __init__(self, config):\n        super().__init__(config.dim)",
        "Net needs config; it is given",
    ),
    "gives no module": (
        "def Net(dim):\n    return lambda x: x",
        "Net must give a torch.nn.Module, got function",
    ),
    "gives nothing": (
        "def Net(dim):\n    Base(dim)",
        "Net must give a torch.nn.Module, got NoneType",
    ),
    "a class that is no module": (
        "class Net:\n    def __init__(self, dim): ...",
        "Net must give a torch.nn.Module, got Net",
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_how_a_module_is_built(tmp_path: Path, style: str) -> None:
    """The right values arrive by name, or a sentence says what is needed."""
    code, expected = STYLES[style]
    path = plugin(tmp_path, "net", f"{_HEAD}{code}\n\nATTENTION = AttentionSpec(module=Net)\n")
    spec = attentions.load_file(path)
    attentions.outline(path)
    if isinstance(expected, str):
        with pytest.raises((ValueError, AttributeError)) as caught:
            spec.build(64, 4, Grid(3, 3), impl="eager")
        assert expected in str(caught.value)
    else:
        module: Any = spec.build(64, 4, Grid(3, 3), impl="eager")
        assert module.got == expected


KNOWN = {"dim": 32, "num_heads": 2, "impl": "eager"}
NAMES = st.sampled_from(
    [
        *KNOWN,
        "grid",
        "heads",
        "embed_dim",
        "qkv_bias",
        "drop",
        "window",
        "kw",
        "x",
        "größe",
        "self2",
    ]
)
DEFAULTS = st.sampled_from(
    [
        "",
        "",
        "8",
        "0.5",
        "True",
        "None",
        "'a'",
        "(7, 7)",
        "nn.GELU",
        "[]",
        "{}",
        "-1",
        "1e400",
        "2**3",
    ]
)


@dataclass(frozen=True)
class Signature:
    """Arguments with their defaults ("" for none) by their kinds."""

    before: list[tuple[str, str]]
    named: list[tuple[str, str]]
    keywords: list[tuple[str, str]]
    args: str = ""
    kwargs: str = ""
    names: frozenset[str] = field(default_factory=frozenset)

    def text(self, first: str) -> str:
        """As Python reads it; a default may need one after it."""
        positional = [(first, ""), *self.before, *self.named]
        needs = [i for i, (_, default) in enumerate(positional) if default]
        shown = [
            f"{name}={default or 'None'}" if needs and i >= needs[0] else name
            for i, (name, default) in enumerate(positional)
        ]
        if self.before:
            shown.insert(1 + len(self.before), "/")
        shown += [f"*{self.args}"] if self.args else ["*"] * bool(self.keywords)
        shown += [f"{name}={default}" if default else name for name, default in self.keywords]
        return ", ".join([*shown, *([f"**{self.kwargs}"] if self.kwargs else [])])


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """Each name once, in any order and of any kind."""
    names = draw(st.lists(NAMES, unique=True, max_size=6))
    arguments = [(name, draw(DEFAULTS)) for name in names]
    first, second = sorted(draw(st.tuples(st.integers(0, 6), st.integers(0, 6))))
    return Signature(
        arguments[:first],
        arguments[first:second],
        arguments[second:],
        draw(st.sampled_from(["", "", "args"])),
        draw(st.sampled_from(["", "", "kwargs"])),
    )


_FILE = """\
from torch import nn
from attentions import AttentionSpec

class Net(nn.Module):
    def __init__({init}):
        super().__init__()
        self.got = dict(locals())

    def forward({forward}):
        return x

ATTENTION = AttentionSpec(module=Net)
"""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(init=signatures(), forward=signatures(), number=st.integers(0, 10**9))
def test_a_signature(init: Signature, forward: Signature, number: int, tmp_path: Path) -> None:
    """No traceback; where the module is built, each argument that vitbench gives has its value, and
    every other its default."""
    text = _FILE.format(init=init.text("self"), forward=forward.text("self"))
    ast.parse(text)
    assert not any(keyword.iskeyword(name) for name, _ in init.named)
    folder = tmp_path / str(number)
    folder.mkdir(exist_ok=True)
    path = plugin(folder, f"net{abs(hash(text))}", text)
    axes = {"attention": (path.stem,), "dim": (32,), "num_heads": (2,)}
    try:
        plan = make_plan(device="cpu", axes=axes, plugins=(path,))
        reasons_against(plan.cases, plan.plugins)
    except BadInput as error:
        assert "\n" not in str(error)  # noqa: PT017 - others are planned
    keywords = attentions.outline(path).keywords
    spec = attentions.load_file(path)
    try:
        module: Any = spec.build(32, 2, Grid(3, 3), impl="eager")
    except ValueError as error:
        assert " needs " in str(error)  # noqa: PT017 - others are built
        return
    for name, value in (KNOWN | {"grid": Grid(3, 3)}).items():
        if name in module.got:
            assert module.got[name] == value, text
    assert keywords is None or not {*KNOWN, "grid"} & keywords.keys()
