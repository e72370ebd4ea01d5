"""Case and Sweep: what is measured, and the axes it is drawn from."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import attentions
from tests.vitbench.examples import PLUGIN, case, layer, plugin
from vitbench.cases.case import Case, Resolution
from vitbench.cases.scalars import parse_scalar
from vitbench.cases.sweep import Sweep
from vitbench.errors import BadInput, nearest


def sweep(**changes: Any) -> Sweep:
    """A small sweep of MSA with changes."""
    return Sweep(**({"attention": ("msa",)} | changes))


def swept(name: str, **params: Any) -> dict[str, Any]:
    """Axes of a sweep over one mechanism with these hyper-parameters."""
    return {"attention": (name,), "params": {name: {k: (v,) for k, v in params.items()}}}


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_resolution_is_read_as_it_is_written(height: int, width: int) -> None:
    """parse and str are inverses; one number stands for a square."""
    size = Resolution(height, width)
    assert Resolution.parse(str(size)) == size
    assert Resolution.parse(f"{height}x{width}") == size
    assert Resolution.parse(str(height)) == Resolution(height, height)


@pytest.mark.parametrize("text", ["", "0", "0x3", "3x0", "-4", "4.5", "4x", "x4", "2x3x4", "a"])
def test_resolution_of_no_pixels_is_refused(text: str) -> None:
    """What is no size in pixels is named in the sentence."""
    with pytest.raises(BadInput, match="pixels like 224 or 800x1280") as caught:
        Resolution.parse(text)
    assert repr(text) in str(caught.value)


def test_id_is_stable() -> None:
    """The id is a hash of the content that no release may change: journals are resumed by it."""
    assert case().id == "d3afeea1ab08"
    assert case(params=(("qkv_bias", True),)).id == case().id


def test_id_follows_every_field() -> None:
    """Two cases that differ in any field have different ids."""
    changes: dict[str, Any] = {
        "attention": "hilo",
        "backbone": "b",
        "params": (),
        "impl": "eager",
        "runtime": "compile",
        "cold": True,
        "mode": "forward_backward",
        "device": "cuda",
        "dtype": "float16",
        "more": (("layout", "nhwc"),),
    }
    fields = [field.name for field in dataclasses.fields(Case)]
    ids = {case().id} | {case(**{name: changes.get(name, 7)}).id for name in fields}
    assert len(ids) == len(fields) + 1
    assert all(len(an_id) == 12 for an_id in ids)


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    ),
    st.integers(1, 64),
)
def test_case_survives_json(params: dict[str, Any], batch_size: int) -> None:
    """A case read back from JSON equals itself, and so does its id."""
    one = case(params=tuple(sorted(params.items())), batch_size=batch_size)
    again = Case.from_dict(json.loads(json.dumps(one.to_dict())))
    assert again == one
    assert again.id == one.id


@pytest.mark.parametrize(
    ("text", "value"),
    [("2", 2), ("-2", -2), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("False", False)],
)
def test_scalars_are_read_by_kind(text: str, value: object) -> None:
    """A hyper-parameter is a whole number, a number, true or false, else a word."""
    found = parse_scalar(text)
    assert found == value
    assert type(found) is type(value)
    assert parse_scalar(" avg ") == "avg"
    assert case(params=(("alpha", 0.9), ("bias", False))).settings == "alpha=0.9 bias=false"


def test_sweep_is_the_product_of_its_axes() -> None:
    """Every combination once, though a value is named twice, in a stable order; nothing else."""
    one = sweep(
        attention=("msa", "sra"),
        resolution=(Resolution(64, 64), Resolution(96, 64)),
        dim=(32, 64),
        num_heads=(2, 4),
        batch_size=(1, 3, 1),
        dtype=("float32", "bfloat16"),
        impl=("eager", "fused"),
        mode=("forward", "forward_backward"),
    )
    cases = one.expand()
    assert len(cases) == len(set(cases)) == 2**8
    assert cases == one.expand()
    found = {(c.attention, c.dim, c.num_heads, c.batch_size, c.dtype, c.impl) for c in cases}
    assert len(found) == 2**6


@given(height=st.integers(16, 400), width=st.integers(16, 400), stride=st.sampled_from([4, 8, 16]))
def test_grid_is_the_image_over_the_stride(height: int, width: int, stride: int) -> None:
    """Rounded down, in each direction."""
    (one,) = sweep(resolution=(Resolution(height, width),), stride=(stride,)).expand()
    assert (one.grid_height, one.grid_width) == (height // stride, width // stride)
    assert one.grid == attentions.Grid(height // stride, width // stride)


def test_cases_carry_all_hyper_parameters() -> None:
    """The authors' settings at the stride, the defaults, and on top what is swept; a whole number
    is as good as any."""
    cases = sweep(attention=("hilo",), params={"hilo": {"alpha": (0.5, 1)}}).expand()
    assert [dict(one.params)["alpha"] for one in cases] == [0.5, 1]
    keywords = attentions.outline(attentions.path_of("hilo")).keywords
    assert keywords is not None
    for one in cases:
        assert dict(one.params).keys() == keywords.keys()
    fine, coarse = sweep(attention=("sra",), stride=(4, 32)).expand()
    assert fine.params != coarse.params


def test_an_implementation_that_is_not_there_falls_back() -> None:
    """A mechanism with one implementation is measured once, in that, whatever is asked."""
    one = Sweep(attention=("mine",), plugins={"mine": Path(__file__)}, impl=("fused", "eager"))
    assert [c.impl for c in one.expand()] == ["eager"]


def test_backbones_have_no_layer_axes(tmp_path: Path) -> None:
    """A whole model is swept over images, not over dim, heads and stride."""
    path = plugin(tmp_path, "tiny", "BACKBONE = 1")
    one = Sweep(backbone=("tiny",), plugins={"tiny": path}, dim=(32, 64), num_heads=(1, 2))
    (found,) = one.expand()
    assert (found.subject, found.attention, found.dim, found.stride) == ("tiny", "", 0, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention": ()}, ["neither an attention nor a backbone"]),
        ({"attention": ("hillo",)}, ["'hillo'", "nearest: hilo"]),
        ({"attention": ("zzzz",)}, ["'zzzz'", "known:", "msa"]),
        ({"backbone": ("litv9",)}, ["'litv9'"]),
        ({"dtype": ("float23",)}, ["'float23'", "nearest: float32"]),
        ({"impl": ("fuse",)}, ["'fuse'", "fused"]),
        ({"mode": ("backward",)}, ["'backward'", "forward_backward"]),
        ({"dim": (30,), "num_heads": (4,)}, ["divisible", "dim 30", "4 heads"]),
        ({"resolution": (Resolution(8, 64),)}, ["8x64", "stride 16"]),
        ({"resolution": (Resolution(64, 8),)}, ["64x8", "stride 16"]),
        ({"dim": (0,)}, ["dim", "at least 1", "0"]),
        ({"num_heads": (-2,)}, ["num_heads", "-2"]),
        ({"batch_size": (0,)}, ["batch_size", "0"]),
        ({"stride": (0,)}, ["stride", "0"]),
        ({"dim": ()}, ["dim needs at least one value"]),
        ({"runtime": ("cuda-graph",)}, ["CUDA graphs need a CUDA device", "cpu"]),
        ({"params": {"hilo": {"alpha": (0.5,)}}}, ["hilo", "not among"]),
        ({"params": {"hillo": {"alpha": (0.5,)}}}, ["hillo"]),
        ({"params": {"msa": {"alpha": (0.5,)}}}, ["msa has no parameter 'alpha'", "qkv_bias"]),
        ({"params": {"msa": {"qkv_bias": (2,)}}}, ["msa.qkv_bias is true or false", "'2'"]),
        # Before anything is built; NaN and infinity cannot be written to the journal.
        (swept("window", window_size=True), ["window.window_size is a whole number"]),
        (swept("window", window_size="big"), ["window.window_size is a whole number"]),
        (swept("window", window_size=0.5), ["window.window_size is a whole number"]),
        (swept("hilo", alpha=float("nan")), ["hilo.alpha must be finite"]),
        (swept("hilo", alpha=float("inf")), ["hilo.alpha must be finite"]),
    ],
)
def test_what_cannot_be_right_is_one_sentence(changes: dict[str, Any], words: list[str]) -> None:
    """The sentence names what was given, and what would do."""
    with pytest.raises(BadInput) as caught:
        sweep(**changes).expand()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert all(word in sentence for word in words), sentence


def test_a_plugin_is_swept_like_ours(tmp_path: Path) -> None:
    """Its hyper-parameters are known from its text, and checked."""
    plugins = {"mine": plugin(tmp_path, "mine", PLUGIN)}
    one = Sweep(attention=("mine",), plugins=plugins, params={"mine": {"strength": (1.0, 2.0)}})
    assert [dict(c.params) for c in one.expand()] == [{"strength": 1.0}, {"strength": 2.0}]
    with pytest.raises(BadInput, match="mine has no parameter 'strenght'; nearest: strength"):
        Sweep(attention=("mine",), plugins=plugins, params={"mine": {"strenght": (1.0,)}}).expand()


def test_a_default_that_a_case_cannot_say_stays_the_modules_own(tmp_path: Path) -> None:
    """A tuple is no parameter of the case, and not to be set; as one of the settings by stage it is
    refused, since it would be lost.
    """
    keywords = ", *, strength=1.0, kernels=(3, 5)"
    plugins = {"mine": plugin(tmp_path, "mine", layer(keywords=keywords))}
    (one,) = Sweep(attention=("mine",), plugins=plugins).expand()
    assert dict(one.params) == {"strength": 1.0}
    refused = r"mine.kernels must be a number, true or false, or a word to be set, not \(3, 5\)"
    with pytest.raises(BadInput, match=refused):
        Sweep(attention=("mine",), plugins=plugins, params={"mine": {"kernels": (3,)}}).expand()
    staged = layer(keywords=keywords, spec=", settings={16: {'kernels': (3, 5)}}")
    with pytest.raises(BadInput, match=refused.replace("mine", "other")):
        Sweep(attention=("other",), plugins={"other": plugin(tmp_path, "other", staged)}).expand()


def test_nearest_names_what_is_like_it() -> None:
    """At most three, nearest first; all of them where nothing is like it."""
    known = ["hilo", "msa", "sra", "window"]
    assert nearest("hlo", known).startswith("nearest: hilo")
    assert nearest("qqqq", known) == "known: hilo, msa, sra, window"
    for name in itertools.permutations("hilo"):
        assert len(nearest("".join(name), known).split(",")) <= 4


@pytest.mark.parametrize(("kind", "name"), [("attention", "hilo"), ("backbone", "litv2_s")])
def test_a_whole_number_is_the_same_setting(kind: str, name: str) -> None:
    """`alpha=1` and `alpha=1.0` are one case, as a parameter and in brackets."""
    ways: list[dict[str, Any]] = [
        {kind: (name,), "params": {name: {"alpha": (value,)}}} for value in (1, 1.0)
    ]
    ways += [{kind: (f"{name}[alpha={text}]",)} for text in ("1", "1.0")]
    found = [{case.id for case in Sweep(**way).expand()} for way in ways]
    assert found == found[:1] * 4
