"""Backbones through the passes of a case, and through the command."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.vitbench.examples import plugin, vitbench
from vitbench.cases.case import Case, Resolution
from vitbench.cases.sweep import Sweep
from vitbench.engine import passes as measurement
from vitbench.instruments.correctness import WrongOutput
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Counted, Failed, Measured
from vitbench.subjects import build as subjects
from vitbench.subjects import check
from vitbench.subjects.backbones.litv2 import CONFIGS, LITv2

QUICK = TimingRule(
    warmup_calls=1, warmup_s=0.0, warmup_cap_s=0.0, sample_s=0.0, min_samples=1, min_s=0.0, cap_s=0
)


def cases(text: str, **axes: Any) -> list[Case]:
    """Of one backbone on small images."""
    given: dict[str, Any] = {"resolution": (Resolution(64, 64),), "batch_size": (1,)}
    return Sweep(backbone=(text,), **(given | axes)).expand()


def counted(case: Case, plugins: dict[str, Path] | None = None) -> Any:
    """What a look at it tells."""
    found = measurement.measure(case, None, plugins or {}, with_facts=True)
    assert isinstance(found, Counted), found
    return found.facts


@pytest.mark.parametrize(("dtype", "impl"), [("float32", "eager"), ("bfloat16", "fused")])
def test_litv2_is_checked_and_counted(dtype: str, impl: str) -> None:
    """Against fp64, and by the authors' formula beside the true count."""
    (case,) = cases("litv2_s", dtype=(dtype,), impl=(impl,))
    facts = counted(case)
    assert facts.columns["params"] == 27_844_000
    assert facts.columns["checked_against"] == "eager float64"
    assert facts.columns["macs_formula"] == pytest.approx(facts.columns["macs"], rel=0.01)
    assert facts.columns["macs_head"] is None


def test_a_mechanism_that_chooses_inside() -> None:
    """Is checked with everything to choose from."""
    (case,) = cases("litv2_s[attention=quadtree]")
    facts = counted(case)
    assert "topk" in facts.columns["checked_against"]
    assert facts.columns["macs_formula"] == pytest.approx(facts.columns["macs"], rel=0.01)


def test_a_plugins_attention_inside(tmp_path: Path) -> None:
    """The user's mechanism in a whole model."""
    mine = plugin(tmp_path, "mine")
    (case,) = cases("litv2_s[attention=mine]", plugins={"mine": mine})
    assert counted(case, {"mine": mine}).columns["params"] > 1e6


@pytest.mark.parametrize(
    ("head", "mode"),
    [
        ("retinanet", "forward"),
        ("semantic_fpn", "forward_backward"),
        pytest.param("mask_rcnn", "forward_backward", marks=pytest.mark.slow),
    ],
)
def test_a_head_is_measured(head: str, mode: str) -> None:
    """Time, memory, and MACs of body and head apart."""
    (case,) = cases(f"timm:resnet18[head={head}]", mode=(mode,))
    found = measurement.measure(case, QUICK, {}, with_facts=True)
    assert isinstance(found, Measured), found
    assert found.facts is not None
    (plain,) = cases("timm:resnet18")
    classifier = 512 * (1000 + 2 * 2)  # with its pooling
    body = counted(plain).columns["macs"] - classifier
    assert found.facts.columns["macs_head"] is not None
    assert found.facts.columns["macs"] == body + found.facts.columns["macs_head"]


def test_an_odd_size() -> None:
    """Of a pyramid under a head."""
    (case,) = cases("litv2_s[head=semantic_fpn]", resolution=(Resolution(133, 101),))
    assert counted(case).columns["macs_head"] > 1e9


def test_no_pyramid_is_unsupported() -> None:
    """An answer, in words, and not a fault."""
    (case,) = cases("vit_small[head=retinanet]", resolution=(Resolution(224, 224),))
    found = measurement.measure(case, None, {}, with_facts=True)
    assert isinstance(found, Failed)
    assert found.kind == "unsupported"
    assert "strides" in found.message


def test_weights_reach_the_model(tmp_path: Path) -> None:
    """Every backbone of a plan has the checkpoint."""
    torch.manual_seed(3)
    source = LITv2(CONFIGS["litv2_s"], 64, 64)
    path = tmp_path / "w.pth"
    torch.save({"model": source.state_dict()}, path)
    (case,) = cases("litv2_s", weights="weights_0")
    module = subjects.build_module(case, {}, "fused", path)
    assert torch.equal(module.state_dict()["head.weight"], source.state_dict()["head.weight"])


RUN = "run --device cpu --out out --resolution 64"


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (None, "cannot be read"),
        ({"head.weight": torch.zeros(2, 2)}, "another size: head.weight is 2x2, here 1000x768"),
    ],
    ids=["missing", "another size"],
)
def test_a_checkpoint_that_does_not_fit(tmp_path: Path, kept: Any, words: str) -> None:
    """One sentence, status 2, nothing written, before anything is measured."""
    path = tmp_path / "w.pth"
    if kept is not None:
        torch.save(kept, path)
    before = set(tmp_path.iterdir())
    done = vitbench(tmp_path, *f"{RUN} --backbone litv2_s --weights w.pth".split())
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


def test_measured_through_the_command(tmp_path: Path) -> None:
    """A swap."""
    words = "--backbone litv2_s[attention=pooling] --batch-size 1 --untimed --quiet --threads 1"
    done = vitbench(tmp_path, *RUN.split(), *words.split())
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "out" / "records.csv").read_text()
    assert "attention=pooling" in rows


def test_no_weight_of_a_backbone_is_left_at_zero() -> None:
    """What training starts at zero is drawn where no checkpoint is given: offsets of deformable
    convolutions, and what ends a residual branch; equal cases have equal weights."""
    (one,) = cases("litv2_s")
    module, again = (subjects.build_module(one, {}, impl) for impl in ("fused", "eager"))
    parameters, others = dict(module.named_parameters()), dict(again.named_parameters())
    assert any("conv_offset" in name for name in parameters)
    for name, parameter in parameters.items():
        assert parameter.any(), name
        assert torch.equal(parameter, others[name]), name


@pytest.mark.slow
def test_an_output_without_the_offsets_is_wrong() -> None:
    """A runtime that ignored where LITv2's convolutions sample would fail the check of its output,
    against eager in float64 and on another input."""
    (one,) = cases("litv2_s")
    subject, other = subjects.build(one, {}), subjects.build(one, {})
    with torch.inference_mode():
        for name, parameter in other.module.named_parameters():
            if "conv_offset" in name:
                parameter.zero_()
        ignoring = dataclasses.replace(other, x=subject.x)
        check.check_values(one, subject, subject.call(), {})
        with pytest.raises(WrongOutput, match="differs from the eager"):
            check.check_values(one, subject, ignoring.call(), {})
        with pytest.raises(WrongOutput, match="called on another input"):
            check.check_follows_input(one, subject, ignoring.call)
