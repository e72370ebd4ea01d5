"""Classes of installed packages as attentions: imported, bound, and measured like our own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from attentions import BrokenAttention
from tests.vitbench.examples import case
from vitbench.cases import class_names
from vitbench.cases.case import Case
from vitbench.engine import passes
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Failed, Measured
from vitbench.subjects import backbones, build, classes

QUICK = TimingRule(min_s=0.01, warmup_s=0.0, cap_s=0.02, warmup_cap_s=0.0, min_samples=2)
LAYERS = '''\
import torch
from torch import nn


class First(nn.Module):
    """A channels-first map."""

    def __init__(self, in_dims=512, *, heads=3):
        super().__init__()
        self.conv = nn.Conv2d(in_dims, in_dims, 1, groups=heads)

    def forward(self, x):
        return self.conv(x).view(x.shape)


class Tokens(nn.Module):
    def __init__(self, dim, num_heads, seq_len, **others):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.place = nn.Parameter(torch.randn(seq_len, dim))
        self.others = others

    def forward(self, x):
        q, k, v = self.qkv(x + self.place).chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


class Wider(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc = nn.Linear(dim, dim + 1)

    def forward(self, x):
        return self.fc(x)


class Picky(nn.Module):
    def __init__(self, dim):
        super().__init__()
        if dim > 32:
            raise RuntimeError("too wide for me")

    def forward(self, x):
        return x


class NoModule:
    def __init__(self, dim):
        pass


def made(dim):
    return Wider(dim).fc.weight


number = 3
'''


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package `odd_layers`, on the path."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "odd_layers.py").write_text(LAYERS)
    (folder / "odd_broken.py").write_text("class Net:\n    pass\n\n1 / 0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


def of(name: str, *params: tuple[str, Any], **changes: Any) -> Case:
    """A case of one of the classes."""
    return case(attention=f"odd_layers:{name}", impl="eager", params=params, **changes)


def measured(one: Case) -> Measured:
    """The outcome of a case that can be measured."""
    outcome = passes.measure(one, QUICK, {}, with_facts=True)
    assert isinstance(outcome, Measured), outcome
    assert outcome.facts is not None
    return outcome


def test_a_channels_first_class_is_measured() -> None:
    """Without a file: its layout is found, its MACs are counted, its output is checked in fp64,
    and `notes` says which layout and how many heads it has."""
    facts = measured(of("First", ("in_dims", "dim"), ("heads", 4))).facts
    assert facts is not None
    columns = facts.columns
    assert columns["macs"] == 16 * 32 * 32 // 4
    assert columns["macs_source"] == "counted"
    assert columns["checked_against"] == "eager float64"
    notes = columns["notes"]
    assert "its layout is bchw, a channels-first map (batch, dim, height, width)" in notes
    assert "it is built with heads=4, as it takes no num_heads" in notes


def test_its_map_is_not_copied() -> None:
    """What lies in memory is what a channels-first module takes."""
    subject = build.build(of("First", ("in_dims", 32), ("heads", 4)), {})
    assert subject.x.shape == (2, 4, 4, 32)
    assert subject.x.permute(0, 3, 1, 2).is_contiguous()


def test_numbers_of_the_case_are_words() -> None:
    """They follow the size of the case; what the class takes by any name is passed on; a training
    step runs too."""
    one = of("Tokens", ("seq_len", "tokens"), ("extra", 3), mode="forward_backward")
    columns = measured(one).facts
    assert columns is not None
    module: Any = build.build_module(one, {}, "eager").module
    assert module.place.shape == (16, 32)
    assert module.others == {"extra": 3}


def test_a_layout_that_is_named() -> None:
    """Is taken without trying, and `notes` says nothing of it."""
    one = of("Tokens", ("seq_len", 16), ("layout", "bnc"))
    facts = measured(one).facts
    assert facts is not None
    assert "layout" not in facts.columns["notes"]


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (
            of("Tokens"),
            r"odd_layers:Tokens needs seq_len, .*: write odd_layers:Tokens\[seq_len=...\]",
        ),
        (of("First", ("head", 3)), r"odd_layers:First has no parameter 'head'; nearest: heads"),
        (of("First", ("layout", "nchw")), r"no layout is called 'nchw'; nearest: .*bchw"),
        (of("First", ("package", "odd-2.0")), r"the case is of odd-2.0, and none is installed"),
        (of("NoModule"), r"must be a class of torch.nn.Module, got the class NoModule"),
        (of("number"), r"must be a class of torch.nn.Module, got int"),
        (of("made"), r"odd_layers:made must give a torch.nn.Module, got Parameter"),
        (of("Frist"), r"odd_layers has no Frist; nearest: First"),
        (case(attention="odd_broken:Net", params=()), r"odd_broken cannot be imported: ZeroDiv"),
        (case(attention="odd_layer:Net", params=()), r"no module is called 'odd_layer'"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(one: Case, sentence: str) -> None:
    """Before anything is measured."""
    with pytest.raises(BrokenAttention, match=sentence) as caught:
        build.check_classes(one, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("one", "sentence"),
    [
        (of("Picky", dim=64), "RuntimeError: too wide for me"),
        (of("Wider"), "it runs in no layout on 4 x 4 tokens of dim 32: bchw: "),
        (
            of("First", ("heads", 4)),
            "it takes no dim, but in_dims, heads, as in odd_layers:First[in",
        ),
        (of("Wider", ("layout", "bnc")), "must keep the shape (2, 16, 32), and gives (2, 16, 33)"),
    ],
)
def test_what_depends_on_the_size_is_a_row(one: Case, sentence: str) -> None:
    """The others of the sweep are measured."""
    build.check_classes(one, {})
    outcome = passes.measure(one, QUICK, {}, with_facts=True)
    assert isinstance(outcome, Failed)
    assert sentence in outcome.message


TIMMS: list[tuple[str, dict[str, Any], str]] = [
    ("timm:layers.Attention2d", {}, "bchw"),
    ("timm:layers.MultiQueryAttention2d", {"kv_stride": 2}, "bchw"),
    ("timm:layers.Attention", {}, "bnc"),
    (
        "timm:models.swiftformer.EfficientAdditiveAttention",
        {"in_dims": "dim", "token_dim": "dim"},
        "bchw",
    ),
    ("timm:models.pvt_v2.Attention", {"sr_ratio": 2}, "bnc_grid"),
]


@pytest.mark.parametrize(("name", "params", "layout"), TIMMS)
def test_timms_classes(name: str, params: dict[str, Any], layout: str) -> None:
    """Their layouts are found, and they give what timm gives, in fp64."""
    pytest.importorskip("timm")
    import attentions

    spec, grid = classes.load(name), attentions.Grid(4, 6)
    wrapped = spec.build(32, 4, grid, impl="eager", **params).double().eval()
    assert attentions.layout_of(wrapped) == layout
    x = torch.randn(2, 4, 6, 32, dtype=torch.float64)
    inner: Any = wrapped.module
    takes = {
        "bchw": lambda: inner(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1),
        "bnc": lambda: inner(x.flatten(1, 2)).view(x.shape),
        "bnc_grid": lambda: inner(x.flatten(1, 2), (4, 6)).view(x.shape),
    }
    with torch.no_grad():
        torch.testing.assert_close(wrapped(x), takes[layout](), rtol=0, atol=1e-13)


HINTED = """\
from torch import nn
from attentions import AttentionSpec

class Net(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x):
        return self.conv(x)

ATTENTION = AttentionSpec(module=Net{layout})
"""


@pytest.mark.parametrize("layout", ["", ", layout='bnc'", ", layout='bchw'"])
def test_a_file_in_another_layout_hears_the_one_that_fits(tmp_path: Path, layout: str) -> None:
    """The row of a module that fails names the layout in which it runs; in that it is measured."""
    path = tmp_path / "net.py"
    path.write_text(HINTED.format(layout=layout))
    one = case(attention="net", impl="eager", params=(), dim=24)
    outcome = passes.measure(one, QUICK, {"net": path}, with_facts=True)
    if "bchw" in layout:
        assert isinstance(outcome, Measured), outcome
        return
    assert isinstance(outcome, Failed)
    assert "it runs as AttentionSpec(layout='bchw')" in outcome.message


def test_a_backbone_with_a_class_inside() -> None:
    """`litv2_s[attention=timm:layers.Attention2d]` has it in stage 3, and its package is a part of
    the case."""
    pytest.importorskip("timm")
    from vitbench.cases.sweep import Sweep

    text = "litv2_s[attention=timm:layers.Attention2d]"
    (one,) = Sweep(backbone=text, resolution=64).expand()
    assert dict(one.params)["package"] == class_names.package_of("timm")
    with torch.device("meta"):
        params = dict[str, Any](one.params)
        module = backbones.load("litv2_s", {}).make(64, 64, impl="fused", **params)
    found = {type(layer).__name__ for layer in module.get_submodule("layers.2").modules()}
    assert "Attention2d" in found
