"""The registry: names, specs and outlines of mechanisms, without and with importing them."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from torch import nn

import attentions
from attentions import AttentionSpec, BrokenAttention, Grid, Paper, UnknownAttention

PLUGIN = '''\
"""Does nothing. More words.

A longer text.
"""
from torch import nn
from attentions import AttentionSpec


class Nothing(nn.Module):
    def __init__(self, dim, num_heads, grid, *, strength=1.5, mode="a"):
        super().__init__()
        self.strength = strength

    def forward(self, x):
        return x


ATTENTION = AttentionSpec(module=Nothing)
'''


def written(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_names_are_the_files() -> None:
    """One file without a leading underscore, one name; sorted."""
    folder = Path(attentions.__file__).parent
    assert set(attentions.names()) == {
        path.stem for path in folder.glob("*.py") if not path.name.startswith("_")
    }
    assert list(attentions.names()) == sorted(attentions.names())
    assert {"msa", "hilo", "window", "shifted_window", "sra"} <= set(attentions.names())


def test_names_and_outlines_import_no_torch() -> None:
    """Listing mechanisms, reading their outlines and mistyping a name cost no torch."""
    code = """
import sys, attentions
for name in attentions.names():
    attentions.outline(attentions.path_of(name)).settings_at(16)
try:
    attentions.load("no_such_mechanism")
except attentions.UnknownAttention:
    pass
attentions.Grid(3, 4).padded_to(2, 2)
loaded = {"torch", "numpy", "jaxtyping"} & sys.modules.keys()
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_one_imports_no_other() -> None:
    """load imports the one file that was asked for."""
    code = """
import sys, attentions
attentions.load("msa")
loaded = {name for name in attentions.names() if f"attentions.{name}" in sys.modules}
assert loaded == {"msa"}, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_hears_the_nearest() -> None:
    """A typing error is answered with the name that was meant."""
    with pytest.raises(UnknownAttention, match=r"is called 'hillo'; nearest: hilo"):
        attentions.load("hillo")
    with pytest.raises(UnknownAttention, match=r"nearest: .*shifted_window"):
        attentions.path_of("shifted-window")


def test_unknown_name_that_is_near_nothing_hears_all() -> None:
    """Where nothing is near, every name is given."""
    with pytest.raises(UnknownAttention, match=r"known: .*hilo.*msa"):
        attentions.load("zzzzzzzz")


@pytest.mark.parametrize("name", ["_windows", "__init__", "../setup", "attentions.msa", ""])
def test_what_is_no_mechanism_is_unknown(name: str) -> None:
    """Underscore files, paths and dotted names are not mechanisms."""
    with pytest.raises(UnknownAttention):
        attentions.load(name)


def test_families() -> None:
    """Every mechanism of ours is of one, the ways to name one agree, and a name that is none is
    answered with those that there are."""
    assert tuple(attentions.FAMILIES) == get_args(attentions.Family)
    for name in attentions.names():
        family = attentions.outline(attentions.path_of(name)).words.get("family")
        assert family in attentions.FAMILIES, f"{name} names no family"
    with pytest.raises(ValueError, match=r"family is one of global, window, .*, got 'quadratic'"):
        AttentionSpec(module=Bare, family=cast("Any", "quadratic"))


def test_load_file(tmp_path: Path) -> None:
    """A plugin is one file anywhere, with nothing but ATTENTION = AttentionSpec(module=...)."""
    path = written(tmp_path, PLUGIN)
    spec = attentions.load_file(path)
    assert attentions.load_file(path) is spec
    module = spec.build(4, 2, Grid(2, 2), impl="eager", strength=2.0)
    assert module.strength == 2.0


WITH_PARAMS = '''\
"""Scales the map."""
from dataclasses import dataclass

from torch import nn

from attentions import AttentionSpec


@dataclass(frozen=True)
class Base:
    strength: float = 1.5


@dataclass(frozen=True)
class Params(Base):
    mode: str = "a"


class Scaled(nn.Module):
    def __init__(self, dim, num_heads, grid, params):
        super().__init__()
        self.params = params


def macs(dim, num_heads, grid, params):
    return int(params.strength * dim)


ATTENTION = AttentionSpec(module=Scaled, params=Params, macs=macs)
'''


def test_params_are_given_by_keywords(tmp_path: Path) -> None:
    """A dataclass of hyper-parameters: the spec takes keywords, the module and the functions get
    one object; the outline knows its fields, inherited ones too."""
    path = written(tmp_path, WITH_PARAMS)
    spec = attentions.load_file(path)
    module: Any = spec.build(4, 2, Grid(2, 2), impl="eager", mode="b")
    assert (module.params.strength, module.params.mode) == (1.5, "b")
    assert spec.macs is not None
    assert spec.macs(4, 2, Grid(2, 2)) == 6
    assert spec.macs(4, 2, Grid(2, 2), strength=2.0) == 8
    assert dataclasses.replace(spec, cost="C").macs == spec.macs  # a copy is not wrapped again
    assert attentions.outline(path).keywords == {"strength": 1.5, "mode": "a"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        spec.build(4, 2, Grid(2, 2), impl="eager", other=1)


def test_files_of_one_name_do_not_meet(tmp_path: Path) -> None:
    """Two plugins with the same file name are two modules, and neither hides a package."""
    first = written(tmp_path, PLUGIN)
    (tmp_path / "other").mkdir()
    second = written(tmp_path / "other", PLUGIN)
    assert attentions.load_file(first).module is not attentions.load_file(second).module
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import no_such_package", r"mine\.py cannot be imported: ModuleNotFoundError: .*no_such"),
        ("import sys; sys.exit(0)", r"mine\.py cannot be imported: SystemExit: 0"),
        ("1 / 0", r"mine\.py cannot be imported: ZeroDivisionError: division by zero"),
        ("def f(:", r"mine\.py cannot be imported: SyntaxError"),
        (
            "x = 1",
            r"mine\.py must define ATTENTION = AttentionSpec\(module=\.\.\.\), found nothing",
        ),
        ("ATTENTION = 3", r"mine\.py must define ATTENTION = .*, found int"),
    ],
    ids=["missing import", "exit", "error", "syntax error", "no ATTENTION", "another ATTENTION"],
)
def test_broken_file_says_what_is_wrong(tmp_path: Path, text: str, sentence: str) -> None:
    """BrokenAttention names the file and what to do."""
    with pytest.raises(BrokenAttention, match=sentence):
        attentions.load_file(written(tmp_path, text))


def test_a_failed_import_leaves_no_module(tmp_path: Path) -> None:
    """A file that raises is not in sys.modules."""
    before = set(sys.modules)
    with pytest.raises(BrokenAttention):
        attentions.load_file(written(tmp_path, "1 / 0"))
    assert not [name for name in set(sys.modules) - before if "mine" in name]


def test_missing_file_is_broken(tmp_path: Path) -> None:
    """A path without a file is answered with the file's name, loaded or read."""
    with pytest.raises(BrokenAttention, match=r"gone\.py cannot be imported: FileNotFoundError"):
        attentions.load_file(tmp_path / "gone.py")
    with pytest.raises(BrokenAttention, match=r"gone\.py cannot be read"):
        attentions.outline(tmp_path / "gone.py")


def test_outline_of_a_minimal_plugin(tmp_path: Path) -> None:
    """What a bare AttentionSpec(module=...) says: keywords, no settings, eager."""
    outline = attentions.outline(written(tmp_path, PLUGIN))
    assert outline.summary == "Does nothing."
    assert outline.keywords == {"strength": 1.5, "mode": "a"}
    assert outline.settings == {}
    assert outline.settings_at(16) == {}
    assert outline.impls == ("eager",)


def test_outline_runs_nothing(tmp_path: Path) -> None:
    """A file is read as text: what it would do when imported does not happen."""
    text = PLUGIN.replace("from torch", "1 / 0\nfrom torch")
    assert attentions.outline(written(tmp_path, text)).keywords == {"strength": 1.5, "mode": "a"}


@pytest.mark.parametrize(
    "content", [b"def f(:", b"x = '\0'", b"x = '\xff'\n"], ids=["syntax", "null byte", "encoding"]
)
def test_outline_of_invalid_python(tmp_path: Path, content: bytes) -> None:
    """A file that is not Python, or not UTF-8, is named."""
    path = tmp_path / "mine.py"
    path.write_bytes(content)
    with pytest.raises(BrokenAttention, match=r"mine\.py is not valid Python: "):
        attentions.outline(path)


def test_outline_leaves_open_what_is_computed(tmp_path: Path) -> None:
    """Settings and implementations that are no literals are None, not guessed."""
    text = PLUGIN.replace(
        "AttentionSpec(module=Nothing)",
        "AttentionSpec(module=Nothing, settings={s: {} for s in (4, 8)}, impls=tuple('ab'))",
    )
    outline = attentions.outline(written(tmp_path, text))
    assert outline.settings is None
    assert outline.impls is None
    assert outline.settings_at(16) == {}


def test_outline_of_a_factory_with_open_keywords(tmp_path: Path) -> None:
    """`**kwargs` hides the hyper-parameters: they are unknown, and so is an imported class."""
    opened = PLUGIN.replace('strength=1.5, mode="a"', "strength=1.5, **kwargs")
    assert attentions.outline(written(tmp_path, opened)).keywords is None
    imported = "from torch.nn import Identity\nATTENTION = AttentionSpec(module=Identity)\n"
    assert attentions.outline(written(tmp_path, imported, "other.py")).keywords is None


def test_outline_of_a_file_without_attention(tmp_path: Path) -> None:
    """A file that defines no ATTENTION has no keywords; loading it gives the reason."""
    assert attentions.outline(written(tmp_path, "x = 1")).keywords is None


def test_grid() -> None:
    """Tokens, padding, and how a size is printed."""
    grid = Grid(5, 8)
    assert grid.tokens == 40
    assert grid.padded_to(2, 3) == Grid(6, 9)
    assert grid.padded_to(5, 8) == grid
    assert grid.padded_to(7, 7) == Grid(7, 14)
    assert str(grid) == "5 x 8"


@pytest.mark.parametrize(("height", "width"), [(0, 3), (3, 0), (-1, 1)])
def test_grid_without_tokens(height: int, width: int) -> None:
    """A grid has at least one token."""
    with pytest.raises(ValueError, match=f"at least 1 x 1 tokens, got {height} x {width}"):
        Grid(height, width)


def test_paper() -> None:
    """Year and link come from the arXiv identifier."""
    paper = Paper(title="HiLo", arxiv="2205.13213", venue="NeurIPS 2022", code="https://x.org")
    assert paper.year == 2022
    assert paper.link == "https://arxiv.org/abs/2205.13213"


class Bare(nn.Module):
    """Takes no hyper-parameter and no impl."""

    def __init__(self, dim: int, num_heads: int, grid: Grid) -> None:
        super().__init__()
        self.built_for = dim, num_heads, grid


def test_module_alone_is_a_spec() -> None:
    """AttentionSpec(module=...) is valid; everything else is optional."""
    spec = AttentionSpec(module=Bare)
    assert spec.paper is None
    assert spec.macs is None
    assert spec.impls == ("eager",)
    assert {stride: dict(values) for stride, values in spec.settings.items()} == {
        4: {},
        8: {},
        16: {},
        32: {},
    }
    assert spec.reason_against(8, 2, Grid(3, 3)) is None
    module = spec.build(8, 2, Grid(3, 3), impl="eager")
    assert module.built_for == (8, 2, Grid(3, 3))


def test_build_refuses_with_a_reason() -> None:
    """An implementation that is not there, and heads that do not divide, raise in words."""
    spec = AttentionSpec(module=Bare)
    with pytest.raises(ValueError, match="impl is one of eager, got 'fused'"):
        spec.build(8, 2, Grid(3, 3), impl="fused")
    with pytest.raises(ValueError, match="dim must be divisible by num_heads, got 8 and 3"):
        spec.build(8, 3, Grid(3, 3), impl="eager")
    refusing = AttentionSpec(module=Bare, unsupported=lambda dim, num_heads, grid: "not today")
    with pytest.raises(ValueError, match="not today"):
        refusing.build(8, 2, Grid(3, 3), impl="eager")


class WithoutGrid(nn.Module):
    """As many attention modules are written: a flag stands where vitbench has the grid."""

    def __init__(self, dim: int, num_heads: int = 8, qkv_bias: bool = False) -> None:
        super().__init__()
        self.built_for = dim, num_heads, qkv_bias


class Open(nn.Module):
    """Takes any keyword."""

    def __init__(self, dim: int, **others: Any) -> None:
        super().__init__()
        self.built_for = dim, others


class Renamed(nn.Module):
    """Calls dim by another name."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()


def test_arguments_are_given_by_name() -> None:
    """A module gets what it names, never the grid as its third argument; what it needs beyond that
    is named in a sentence.
    """
    without = AttentionSpec(module=WithoutGrid)
    module: Any = without.build(8, 2, Grid(3, 3), impl="eager")
    assert module.built_for == (8, 2, False)
    assert without.build(8, 2, Grid(3, 3), impl="eager", qkv_bias=True).built_for == (8, 2, True)
    module = AttentionSpec(module=Open).build(8, 2, Grid(3, 3), impl="eager", alpha=1)
    assert module.built_for == (8, {"alpha": 1})
    with pytest.raises(ValueError, match=r"Renamed needs embed_dim; it is given dim, num_heads,"):
        AttentionSpec(module=Renamed).build(8, 2, Grid(3, 3), impl="eager")


def test_outline_of_a_module_without_a_grid(tmp_path: Path) -> None:
    """Its hyper-parameters are those of its arguments that vitbench does not give."""
    text = PLUGIN.replace('dim, num_heads, grid, *, strength=1.5, mode="a"', "dim, qkv_bias=False")
    assert attentions.outline(written(tmp_path, text)).keywords == {"qkv_bias": False}


def test_settings_of_the_nearest_stage() -> None:
    """A stride without settings takes those of the nearest in ratio, the finer on a tie."""
    spec = AttentionSpec(module=Bare, settings={8: {"a": 8}, 32: {"a": 32}})
    assert [spec.settings_at(stride)["a"] for stride in (4, 8, 16, 20, 32, 64)] == [
        8,
        8,
        8,
        32,
        32,
        32,
    ]
    assert AttentionSpec(module=Bare, settings={}).settings_at(16) == {}


def test_settings_given_out_are_copies() -> None:
    """Changing what settings_at returned changes no mechanism."""
    spec = AttentionSpec(module=Bare, settings={16: {"a": 1}})
    spec.settings_at(16)["a"] = 2
    assert spec.settings_at(16) == {"a": 1}
