"""Classes of installed packages: found by their names, and read, without importing anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vitbench.cases import class_names
from vitbench.cases.case import Case
from vitbench.cases.sweep import Sweep
from vitbench.errors import BadInput

LAYERS = '''\
raise RuntimeError("this file is read, not run")


class Mixer:
    """Mixes tokens. It is not run."""

    def __init__(self, dim, num_heads=8, *, window=7, bias=True, act=None):
        pass


class Channels:
    def __init__(self, in_dims=512, ratio=2.0):
        pass


def made(dim):
    return Mixer(dim)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that does not import, in a folder of its own on the path; its name."""
    folder = tmp_path / "strange_layers"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("from .layers import Mixer\n")
    (folder / "layers.py").write_text(LAYERS)
    (folder / "inner" / "__init__.py").write_text("")
    (folder / "inner" / "deep.py").write_text(LAYERS.replace("Mixer", "DeepMixer"))
    monkeypatch.syspath_prepend(tmp_path)
    class_names.locate.cache_clear()
    return "strange_layers"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("strange_layers:Mixer", "__init__.py"),
        ("strange_layers:layers.Mixer", "layers.py"),
        ("strange_layers.layers:Mixer", "layers.py"),
        ("strange_layers.inner:deep.DeepMixer", "inner/deep.py"),
        ("strange_layers.layers:made", "layers.py"),
    ],
)
def test_a_class_is_found(package: str, tmp_path: Path, name: str, file: str) -> None:
    """By a module and a name in it, with the colon after any part; also where it is imported."""
    place = class_names.locate(name)
    assert place.file == tmp_path / package / file
    assert place.module.replace(".", "/") == f"{package}/{file}".removesuffix(".py").removesuffix(
        "/__init__"
    )


def test_a_file_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is found too, though workers do not run from there."""
    (tmp_path / "mine_here.py").write_text(LAYERS)
    monkeypatch.chdir(tmp_path)
    assert class_names.locate("mine_here:Mixer").file == tmp_path / "mine_here.py"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "strange_layer:Mixer",
            r"no module is called 'strange_layer'; .*`pip install strange_layer`",
        ),
        ("timn:layers.Attention", r"no module is called 'timn'; nearest: .*timm"),
        ("strange_layers:layer.Mixer", r"strange_layers has no module 'layer'; nearest: layers"),
        ("strange_layers:layers.Mixr", r"strange_layers.layers has no Mixr; nearest: Mixer"),
        ("strange_layers:layers.deep.X", r"strange_layers.layers has no module 'deep'; it is no"),
        (
            "strange_layers:DeepMixer",
            r"has no DeepMixer; it is in strange_layers:inner.deep.DeepMixer",
        ),
        ("strange_layers:", r"a class is MODULE:NAME, such as timm:layers.Attention2d"),
        ("strange-layers:Mixer", r"a class is MODULE:NAME"),
        (":Mixer", r"a class is MODULE:NAME"),
    ],
)
def test_a_name_that_is_none(package: str, name: str, sentence: str) -> None:
    """One sentence with the nearest, where it is, or how to install it."""
    with pytest.raises(BadInput, match=sentence):
        class_names.locate(name)


def cases(*names: str, **changes: Any) -> list[Case]:
    """The cases of a sweep over these attentions."""
    return Sweep(attention=names, resolution=64, dim=32, num_heads=4, **changes).expand()


def test_settings_are_read_from_the_text(package: str) -> None:
    """Defaults that a case can say, those that the user writes, and the numbers of the case as
    words; num_heads in brackets is that of the case."""
    (case,) = cases("strange_layers:Mixer[window=3,num_heads=2]")
    assert (case.attention, case.num_heads, case.impl) == ("strange_layers:Mixer", 2, "eager")
    assert dict(case.params) == {"window": 3, "bias": True}
    (case,) = cases("strange_layers.layers:Channels[in_dims=dim]")
    assert dict(case.params) == {"in_dims": "dim", "ratio": 2.0}
    swept = cases("strange_layers:Mixer", params={"strange_layers:Mixer": {"window": (3, 7)}})
    assert [dict(case.params)["window"] for case in swept] == [3, 7]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("strange_layers:Mixer[windw=3]", "has no parameter 'windw'; nearest: window"),
        ("strange_layers:Mixer[window=a]", "window is a whole number like 7, got 'a'"),
        ("strange_layers:Mixer[num_heads=0]", "num_heads must be at least 1, got 0"),
        ("strange_layers:Mixer[window]", r"takes \[key=value,...\], got 'window'"),
        ("hilo[alpha=0.5", "an attention is a name, or NAME"),
        ("hilo[alfa=0.5]", "hilo has no parameter 'alfa'; nearest: alpha"),
    ],
)
def test_settings_that_are_none(package: str, text: str, sentence: str) -> None:
    """Are answered before anything is imported."""
    with pytest.raises(BadInput, match=sentence):
        cases(text)


def test_settings_of_a_mechanism_in_brackets() -> None:
    """As --param gives them; the case is the same."""
    assert cases("hilo[alpha=0.5]") == cases("hilo", params={"hilo": {"alpha": (0.5,)}})


def test_the_version_is_a_part_of_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two versions of a package are two cases; where other Pythons measure, theirs count."""
    pytest.importorskip("timm")

    def case_of_version(version: str, **changes: Any) -> Case:
        monkeypatch.setattr(class_names, "package_of", lambda top: version)
        (case,) = cases("timm:layers.Attention2d", **changes)
        return case

    old, new = case_of_version("timm-1.0.1"), case_of_version("timm-1.0.2")
    assert "package=timm-1.0.2" in new.settings
    assert old.id != new.id
    assert "package" not in dict(case_of_version("timm-1.0.2", elsewhere=True).params)
    monkeypatch.undo()
    import timm

    assert class_names.package_of("timm") == f"timm-{timm.__version__}"
    assert class_names.package_of("strange_layers") == ""


def test_which_names_are_layers(package: str) -> None:
    """`convert` takes a name of either kind: a class of layers takes dim, or is given a number
    that only layers have; what else is `module:factory` is a whole model."""
    pytest.importorskip("timm")
    names: dict[str, dict[str, Any]] = {
        "strange_layers:Mixer": {},
        "strange_layers.layers:Channels": {"in_dims": "dim"},
        "timm:layers.Attention2d": {},
    }
    for name, settings in names.items():
        assert class_names.is_layer(name, settings), name
    for name in (
        "strange_layers.layers:Channels",
        "timm:resnet50",
        "timm:resnet50.a1_in1k",
        "hilo",
    ):
        assert not class_names.is_layer(name, {}), name


def test_no_torch_is_imported() -> None:
    """Neither to find a class of timm, nor to answer a name that is none."""
    pytest.importorskip("timm")
    code = """
import sys
from vitbench.__main__ import run
assert run("run --attention timm:layers.Attentoin2d --dry-run --device cpu".split()) == 2
from vitbench.cases.sweep import Sweep
assert Sweep(attention="timm:layers.Attention2d").expand()
assert not {"torch", "timm"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "timm.layers has no Attentoin2d; nearest: Attention2d" in done.stderr
