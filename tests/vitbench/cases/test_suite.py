"""Suite files: what comes with vitbench, and what a malformed one is told."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import attentions
from vitbench.cases import suite
from vitbench.cases.case import Resolution
from vitbench.cases.sweep import Sweep
from vitbench.errors import BadInput

GOOD = """\
title = "Mine"
effort = "quick"

[axes]
attention = ["msa", "hilo"]
resolution = [64, "96x64"]
dtype = "fp32"
runtime = ["eager", "compile"]

[cuda]
batch_size = 32

[params.hilo]
alpha = [0.5, 0.9]
"""


def written(folder: Path, text: str) -> Path:
    """A suite file with that text."""
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(folder: Path, text: str) -> str:
    """The sentence that a suite is refused with; it names the file."""
    path = written(folder, text)
    with pytest.raises(BadInput) as caught:
        suite.read(path)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("name", suite.names())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_our_suites_expand(name: str, device: str) -> None:
    """Each suite that comes with vitbench is a sweep, on a CPU and on a GPU."""
    one = suite.load(name)
    sweep = Sweep(**one.axes_on(device), device=device, params=one.params)
    assert sweep.expand()
    assert one.title


def test_the_promised_suites_are_there() -> None:
    """quick, peer-table, resolution and catalogue, which sweeps every mechanism that there is."""
    assert {"quick", "peer-table", "resolution", "catalogue"} <= set(suite.names())
    assert suite.describe().keys() == set(suite.names())
    assert suite.load("catalogue").axes["attention"] == attentions.names()


def test_the_suite_of_families() -> None:
    """One or two mechanisms of each family that has any."""
    named = suite.load("families").axes["attention"]
    families = {name: outline_of(name).words["family"] for name in attentions.names()}
    counts = Counter(families[str(name)] for name in named)
    assert counts.keys() == set(families.values())
    assert max(counts.values()) <= 2


def outline_of(name: str) -> attentions.Outline:
    return attentions.outline(attentions.path_of(name))


def test_a_suite_of_ones_own(tmp_path: Path) -> None:
    """One value or a list, short names of dtypes, `all` mechanisms, axes of the device on top."""
    one = suite.load(str(written(tmp_path, GOOD)))
    assert one.axes_on("cpu") == {
        "attention": ("msa", "hilo"),
        "resolution": (Resolution(64, 64), Resolution(96, 64)),
        "dtype": ("float32",),
        "runtime": ("eager", "compile"),
    }
    assert one.axes_on("cuda:1")["batch_size"] == (32,)
    assert one.params == {"hilo": {"alpha": (0.5, 0.9)}}
    assert (one.title, one.effort) == ("Mine", "quick")
    every = GOOD.replace('["msa", "hilo"]', '"all"')
    assert suite.read(written(tmp_path, every)).axes["attention"] == attentions.names()


@pytest.mark.parametrize("key", ["reference", "anchor"])
def test_what_throughputs_are_divided_by(tmp_path: Path, key: str) -> None:
    """Suites of older releases say `anchor`."""
    path = written(tmp_path, f'{key} = "resnet50"\n{GOOD}')
    assert suite.load(str(path)).reference == "resnet50"


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ("resolution", "resolutoin", 6, "axes.resolutoin"),
        ('[64, "96x64"]', "[64, 0]", 6, "axes.resolution"),
        ('[64, "96x64"]', "[64, 9.5]", 6, "axes.resolution"),
        ('runtime = ["eager", "compile"]', "runtime = true", 8, "axes.runtime"),
        ('["msa", "hilo"]', '["msa", 3]', 5, "axes.attention"),
        ("batch_size = 32", "batch_size = [32, true]", 11, "cuda.batch_size"),
        ("batch_size = 32", "batch_size = 3.5", 11, "cuda.batch_size"),
        ("[0.5, 0.9]", "[0.5, [1]]", 14, "params.hilo.alpha"),
        ("[params.hilo]", "[parms.hilo]", 13, "parms"),
        ("[cuda]", "[cudda]", 10, "cudda"),
        ('effort = "quick"', "effort = 3", 2, "effort"),
    ],
)
def test_a_malformed_suite_names_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, key: str
) -> None:
    """The reader is sent to the line on which the key stands."""
    assert old in GOOD
    sentence = complaint(tmp_path, GOOD.replace(old, new))
    assert f"line {line}, " in sentence
    assert f"{key}: " in sentence


@pytest.mark.parametrize("key", ["title", "axes"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    """What stands on no line is named without one."""
    text = 'title = "Mine"\n' if key == "axes" else '[axes]\nattention = "msa"\n'
    sentence = complaint(tmp_path, text)
    assert f"{key}: " in sentence
    assert "line" not in sentence


def test_a_misspelt_key_hears_the_nearest(tmp_path: Path) -> None:
    """Of the table that it stands in."""
    assert "nearest: resolution" in complaint(tmp_path, GOOD.replace("resolution", "resolutin"))
    assert "nearest: title" in complaint(tmp_path, GOOD.replace("title", "titel"))
    old = GOOD.replace('runtime = ["eager", "compile"]', "compiled = true")
    assert complaint(tmp_path, old).endswith('axes.compiled: is now runtime = "compile"')


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("title = \n", "line 1"),
        ("a = 1\n[axes\n", "line 2"),
        ("a = 1\na = 2\n", "line 2"),
        # A list over several lines, and a key without a table.
        (GOOD.replace('["msa", "hilo"]', '[\n  "msa",\n  3,\n]'), "line 5, axes.attention"),
        ('title = "t"\naxes.dim = "x"\n', "line 2, axes.dim"),
    ],
)
def test_the_line_is_named(tmp_path: Path, text: str, where: str) -> None:
    """Of what is no TOML by the parser's own sentence, on one line; of a key wherever it stands."""
    assert where in complaint(tmp_path, text)


def test_a_suite_that_cannot_be_read(tmp_path: Path) -> None:
    """A missing file, a folder, another encoding and an unknown name are sentences."""
    with pytest.raises(BadInput, match="'quik'; nearest: quick"):
        suite.load("quik")
    for path in (tmp_path / "no.toml", tmp_path):
        with pytest.raises(BadInput, match="cannot be read: "):
            suite.read(path)
    path = tmp_path / "latin.toml"
    path.write_bytes(b'title = "\xff"\n')
    with pytest.raises(BadInput, match="it is not UTF-8 text"):
        suite.read(path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("hlio", "nearest: hilo"), ("window", "known: hilo, msa"), ("litv2_s", "known")],
)
def test_hyper_parameters_of_what_is_not_measured(tmp_path: Path, name: str, hint: str) -> None:
    """They would have no effect: the suite is refused, unless something else measures it."""
    text = GOOD.replace("[params.hilo]", f"[params.{name}]")
    said = complaint(tmp_path, text)
    assert f"line 13, params.{name}: not among the attentions and backbones; {hint}" in said
    path = written(tmp_path, text)
    assert suite.load(str(path), [name]).params == {name: {"alpha": (0.5, 0.9)}}
    on_cuda = text.replace("[cuda]", f'[cuda]\nattention = "{name}"')
    assert suite.read(written(tmp_path, on_cuda)).params.keys() == {name}
    model = GOOD.replace("dtype =", "backbone = 'litv2_s[attention=sra]'\ndtype =")
    model = model.replace("[params.hilo]", "[params.litv2_s]")
    assert suite.read(written(tmp_path, model)).params.keys() == {"litv2_s"}
