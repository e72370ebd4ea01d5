"""Where strangers keep their modules: beside others, in packages, saved by other editors."""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import attentions
from attentions import BrokenAttention, Grid
from tests.vitbench.examples import backbone_case, case, layer
from vitbench.__main__ import run
from vitbench.devices._imports import beside
from vitbench.engine import passes
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Failed, Measured
from vitbench.subjects import plugins as own


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """Python finds modules where it found them before, and none that a plugin alone can see."""
    path, finders, modules = list(sys.path), list(sys.meta_path), set(sys.modules)
    yield
    assert (sys.path, sys.meta_path) == (path, finders)
    assert not {"my_layers", "kept", "layers"} & (set(sys.modules) - modules)


def write(path: Path, text: str | bytes) -> Path:
    """A file in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


ONCE = TimingRule(warmup_s=0, min_samples=2, min_s=0, cap_s=0.01)

NET = """\
from torch import nn
from attentions import AttentionSpec
{imports}

class Net(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        {forward}
        return self.proj(x) * SCALE

ATTENTION = AttentionSpec(module=Net)
"""


def net(imports: str = "SCALE = 1", forward: str = "pass") -> str:
    """A plugin with these import statements."""
    return NET.format(imports=imports, forward=forward)


def scale(path: Path) -> float:
    """SCALE as the plugin's forward sees it, by the way that the benchmark runs it."""
    net = case(attention=path.stem, impl="eager", params=())
    with passes.conditions(net, {path.stem: path}):
        module: Any = attentions.load_file(path).build(4, 2, Grid(2, 2), impl="eager")
        x = torch.ones(1, 2, 2, 4)
        return float((module(x) / module.proj(x)).mean())


def test_the_file_beside_is_imported(tmp_path: Path) -> None:
    """While the plugin is loaded, and first where forward imports it; a package too, and a folder
    without __init__.py."""
    write(tmp_path / "my_layers.py", "import kept\nSCALE = kept.SCALE")
    write(tmp_path / "kept" / "__init__.py", "from .value import SCALE")
    write(tmp_path / "kept" / "value.py", "SCALE = 3")
    write(tmp_path / "layers" / "inner.py", "SCALE = 5")
    eager = write(tmp_path / "eager.py", net("from my_layers import SCALE"))
    lazy = write(tmp_path / "lazy.py", net(forward="from my_layers import SCALE"))
    spaced = write(tmp_path / "spaced.py", net("from layers.inner import SCALE"))
    assert (scale(eager), scale(lazy), scale(spaced)) == (3, 3, 5)


def test_equal_neighbours_do_not_mix(tmp_path: Path) -> None:
    """Two plugins with a file my_layers each get their own, in any order, early and late; two of
    one folder share theirs."""
    paths = []
    for number, folder in enumerate(("a", "b"), start=1):
        write(tmp_path / folder / "my_layers.py", f"SCALE = {number}")
        paths.append(write(tmp_path / folder / "net.py", net("from my_layers import SCALE")))
        paths.append(write(tmp_path / folder / "lazy.py", net(forward="import my_layers")))
    shared = "import my_layers\nclass Own(my_layers.Base): ...\nSCALE = isinstance(Own(), Base)"
    for name in ("one", "two"):
        imports = "from my_layers import Base\n" + shared
        write(tmp_path / "c" / f"{name}.py", net(imports))
    write(tmp_path / "c" / "my_layers.py", "class Base: ...")
    assert [scale(path) for path in (paths[0], paths[2], paths[0])] == [1, 2, 1]
    assert scale(tmp_path / "c" / "one.py") == scale(tmp_path / "c" / "two.py") == 1
    first, second = attentions.load_file(paths[0]), attentions.load_file(paths[2])
    assert first.module is not second.module


def test_one_inside_the_other(tmp_path: Path) -> None:
    """A backbone that builds a mechanism of another folder: each sees its own neighbour, also after
    the other one was loaded."""
    for number, folder in enumerate(("a", "b"), start=1):
        write(tmp_path / folder / "my_layers.py", f"SCALE = {number}")
        write(tmp_path / folder / "net.py", "import my_layers\nSCALE = my_layers.SCALE")
    with attentions.importable(tmp_path / "a" / "net.py"):
        seen = [__import__("my_layers").SCALE]
        with attentions.importable(tmp_path / "b" / "net.py"):
            seen.append(__import__("my_layers").SCALE)
        seen.append(__import__("my_layers").SCALE)
    assert seen == [1, 2, 1]


def test_a_neighbour_hides_nothing_of_pythons(tmp_path: Path) -> None:
    """A file beside the plugin that is called as one of the standard library, or a folder as a
    package that is installed, is not taken for it."""
    write(tmp_path / "colorsys.py", "raise RuntimeError('not the standard library')")
    write(tmp_path / "yaml" / "data.txt", "")
    path = write(tmp_path / "net.py", net("import colorsys, yaml\nSCALE = len([yaml.safe_load])"))
    assert scale(path) == 1


@pytest.mark.parametrize("with_init", [True, False])
def test_relative_imports(tmp_path: Path, with_init: bool) -> None:
    """Of a file in a package, from beside it and from above; and of a file in a folder that is
    none, from beside it."""
    if with_init:
        write(tmp_path / "models" / "__init__.py", "from .layers import SCALE")
        write(tmp_path / "models" / "nets" / "__init__.py", "")
        write(tmp_path / "models" / "layers.py", "SCALE = 7")
        path = tmp_path / "models" / "nets" / "net.py"
        write(path, net("from .. import SCALE as ONE\nfrom ..layers import SCALE"))
    else:
        write(tmp_path / "layers.py", "SCALE = 7")
        path = write(tmp_path / "net.py", net("from .layers import SCALE"))
    assert scale(path) == 7


def test_a_package_by_its_own_name(tmp_path: Path) -> None:
    """A file inside of a package may import the package absolutely, as from the folder above."""
    write(tmp_path / "kept" / "__init__.py", "")
    write(tmp_path / "kept" / "layers.py", "SCALE = 2")
    assert scale(write(tmp_path / "kept" / "net.py", net("from kept.layers import SCALE"))) == 2


@pytest.mark.parametrize(
    "text",
    [
        codecs.BOM_UTF8 + net().encode(),
        ("# -*- coding: latin-1 -*-\n# Größe\n" + net()).encode("latin-1"),
        net().replace("\n", "\r\n").encode(),
        net().rstrip("\n").encode(),
        net().replace("Net", "Größe").encode(),
    ],
    ids=["byte-order mark", "latin-1", "line ends of Windows", "no newline", "a name in Unicode"],
)
def test_what_python_reads(tmp_path: Path, text: bytes) -> None:
    """Is read, with and without running it."""
    path = write(tmp_path / "net.py", text)
    assert attentions.outline(path).keywords == {}
    assert scale(path) == 1


def test_hyper_parameters_of_a_class_beside(tmp_path: Path) -> None:
    """A module that the file imports from beside it has its hyper-parameters; files that import
    each other in a circle, or extend a class of the same name, do not hang."""
    write(tmp_path / "my_layers.py", net().replace("self, dim", "self, dim, /, window=7"))
    text = "from my_layers import Net as N\nfrom attentions import *\nATTENTION = {}"
    path = write(tmp_path / "net.py", text.format("AttentionSpec(module=N)"))
    assert attentions.outline(path).keywords == {"window": 7}
    write(tmp_path / "a.py", "from b import P")
    write(tmp_path / "b.py", "from a import P")
    text = "from a import P\n{}ATTENTION = AttentionSpec(module=N, params=P)"
    assert attentions.outline(write(tmp_path / "c.py", text.format(""))).keywords is None
    same = write(tmp_path / "d.py", text.format("class P(P):\n    x: int = 1\n"))
    assert attentions.outline(same).keywords == {"x": 1}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (net().replace("=Net)", "=Net(4))"), "write module=Net, not module=Net(...)"),
        (net().replace("=Net)", "=3)"), "module is a class of torch.nn.Module, got 3"),
        (net("import no_such"), "No module named 'no_such' (raised at net.py:3)"),
        (net("import broken"), "ZeroDivisionError: division by zero (raised at broken.py:2)"),
        (net("import sys; sys.exit('usage: ...')"), "SystemExit: usage: ..."),
        (net("n = int(input())"), "net.py cannot be imported: "),
        (net().replace("ATTENTION", "ATENTION"), "must define ATTENTION = AttentionSpec("),
        (net().replace("=Net)", "=Net, impls=('eager'))"), "impls are a tuple of names"),
        (net().replace("=Net)", "=Net, settings=[7])"), "settings are hyper-parameters by stride"),
    ],
)
def test_a_broken_plugin_is_told_in_one_sentence(
    tmp_path: Path, text: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong, and where."""
    monkeypatch.setattr("sys.stdin", None)
    write(tmp_path / "broken.py", "SCALE = 1\n1 / 0")
    path = write(tmp_path / "net.py", text)
    with pytest.raises(BrokenAttention) as caught:
        own.load("net", {"net": path}, as_backbone=own.is_backbone(path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


MODEL = """\
import types
from torch import nn
from vitbench.subjects.backbones import BackboneSpec
{}
BACKBONE = BackboneSpec(build={})
"""


@pytest.mark.parametrize(
    ("code", "build", "sentence"),
    [
        ("", "nn.Flatten()", "function that gives a module, which vitbench calls for each size"),
        ("", "3", "for each size of image, got an object of int (raised at net.py:5)"),
        ("from broken import SCALE", "None", "division by zero (raised at broken.py:2)"),
        ("BackboneSpec = lambda build: build", "3", "must define BACKBONE = BackboneSpec("),
    ],
)
def test_a_broken_backbone_is_told_in_one_sentence(
    tmp_path: Path, code: str, build: str, sentence: str
) -> None:
    """What is wrong, and where."""
    write(tmp_path / "broken.py", "SCALE = 1\n1 / 0")
    path = write(tmp_path / "net.py", MODEL.format(code, build))
    with pytest.raises(BrokenAttention) as caught:
        own.load("net", {"net": path}, as_backbone=True)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        ("lambda **options: types.SimpleNamespace(**options)", "SimpleNamespace"),
        ("lambda pretrained=False, **options: None", "NoneType"),
        ("lambda h, w, **options: nn.Flatten(**options)", None),
        ("lambda h, w, impl: nn.Flatten()", None),
    ],
)
def test_how_a_backbone_is_built(tmp_path: Path, build: str, message: str | None) -> None:
    """`impl` goes where it is named, not into open keywords; what is no module is said."""
    path = write(tmp_path / "net.py", MODEL.format("", build))
    outcome = passes.measure(backbone_case(), ONCE, {"tiny": path}, with_facts=False)
    if message is None:
        assert isinstance(outcome, Measured), outcome
    else:
        assert isinstance(outcome, Failed)
        assert outcome.message == f"ValueError: build must give a torch.nn.Module, got {message}"


@pytest.mark.parametrize("command", ["run --dry-run --attention", "run --backbone", "info"])
def test_a_plugin_of_the_other_kind(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backbone under --attention, and the other way round: which option names it."""
    text, option = MODEL.format("", "nn.Flatten"), "backbone"
    if "--backbone" in command:
        text, option = net(), "attention"
    path = write(tmp_path / "mine.py", text)
    assert run([*command.split(), "mine", "--plugin", str(path)]) == 2
    article = "an" if option == "attention" else "a"
    sentence = f"mine is {article} {option}, by its file: name it with --{option}"
    assert capsys.readouterr().err == f"vitbench: {sentence}\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("b, n, c = x.shape", "ValueError: too many values to unpack (expected 3); vitbench calls"),
        ("kept(x)", "NameError: name 'kept' is not defined; vitbench calls"),
        ("import sys; sys.exit(3)", "SystemExit: 3; vitbench calls"),
    ],
)
def test_what_forward_was_called_with(tmp_path: Path, code: str, message: str) -> None:
    """An error in forward says it, and where it was raised."""
    path = write(tmp_path / "net.py", layer(forward=code, keywords=""))
    net = case(attention="net", impl="eager", params=())
    outcome = passes.measure(net, None, {"net": path}, with_facts=True)
    assert isinstance(outcome, Failed)
    assert outcome.kind == "error"
    assert outcome.message.startswith(message)
    assert (
        "calls forward(x) with x of shape (2, 4, 4, 32), a channels-last map (batch, height, "
        "width, dim); "
    ) in outcome.message
    assert outcome.message.endswith("; raised at net.py:15")
    assert ("AttentionSpec(layout='bnc')" in outcome.message) == ("b, n, c" in code)


def test_forward_with_more_arguments(tmp_path: Path) -> None:
    """One that needs height and width beside x: what it is called with; a mask with a default is
    no hindrance."""
    text = layer(keywords="")
    for name, signature in (("sized", "self, x, H, W"), ("masked", "self, x, mask=None")):
        write(tmp_path / f"{name}.py", text.replace("self, x)", f"{signature})"))
    files = {name: tmp_path / f"{name}.py" for name in ("sized", "masked")}
    sized, masked = (
        passes.measure(case(attention=n, impl="eager", params=()), ONCE, files, with_facts=False)
        for n in files
    )
    assert isinstance(sized, Failed)
    assert "missing 2 required positional arguments: 'H' and 'W'; vitbench calls" in sized.message
    assert isinstance(masked, Measured)


def test_what_a_plugin_is_made_of(tmp_path: Path) -> None:
    """The files beside it that it imports, through each other too; not the others, nor those of
    Python."""
    write(tmp_path / "my_layers.py", "import kept.value, random")
    write(tmp_path / "kept" / "__init__.py", "import my_layers")
    write(tmp_path / "kept" / "value.py", "")
    write(tmp_path / "unused.py", "")
    path = write(tmp_path / "net.py", net("from my_layers import SCALE"))
    names = [file.relative_to(tmp_path).as_posix() for file in beside(path)]
    assert names == ["kept/__init__.py", "kept/value.py", "my_layers.py"]
