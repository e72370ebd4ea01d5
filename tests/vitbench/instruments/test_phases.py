"""Where a call's time goes: every operator in the phase that it is of."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.vitbench.examples import case
from vitbench.instruments import _phases, phases
from vitbench.subjects import build


def shares(module: nn.Module, call: Any, *, is_dispatched: bool = True) -> dict[str, float]:
    """What the instrument reads of a call."""
    device = SimpleNamespace(synchronize=lambda: None)
    read: Any = phases.read
    workload = SimpleNamespace(module=module, call=call, device=device, is_dispatched=is_dispatched)
    words = (word.partition(":") for word in read(workload)["phases"].split())
    return {name: float(share) for name, _, share in words}


def of_layer(**changes: Any) -> dict[str, float]:
    """Of a mechanism on a small map."""
    subject = build.build(case(**changes), {})
    with torch.inference_mode():
        return shares(subject.module, subject.call)


ATTENDING = {"projections", "QK", "softmax", "AV", "output"}


@pytest.mark.parametrize(
    ("changes", "some", "none"),
    [
        ({"impl": "eager"}, ATTENDING, {"kernel", "convolutions"}),
        ({"impl": "fused"}, {"projections", "kernel", "output"}, {"QK", "softmax", "AV"}),
        ({"attention": "xca", "impl": "eager"}, ATTENDING, {"kernel"}),
        ({"attention": "pooling", "params": ()}, {"elementwise"}, ATTENDING),
        (
            {"attention": "lka", "params": ()},
            {"projections", "convolutions"},
            {"QK", "AV", "kernel", "output"},
        ),
    ],
)
def test_the_phases_of_a_mechanism(changes: dict[str, Any], some: set[str], none: set[str]) -> None:
    """Those that its equations have; together they are the whole."""
    changes = {"params": ()} | changes if "attention" in changes else changes
    read = of_layer(**changes)
    assert some <= {*read}
    assert not none & {*read}
    assert {*read} <= {*phases.PHASES}
    assert sum(read.values()) == pytest.approx(1, abs=0.01)


class Chosen(nn.Module):
    """Attention over keys that scores chose: two products of activations before the second one."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(8, 8)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x)
        best = (q @ x.transpose(-2, -1)).argmax(-1)
        keys = x[best]
        return self.out((q @ keys.transpose(-2, -1)).softmax(-1) @ keys)


def test_indices_from_scores_are_no_scores() -> None:
    """What they choose is data: its product with queries is a first one."""
    module, x = Chosen(), torch.randn(6, 8)
    with torch.no_grad():
        read = shares(module, lambda: module(x))
        with _phases._Timed([*module.parameters()], lambda: None) as timed:
            module(x)
    assert {"QK", "AV", "softmax", "output"} <= {*read}
    assert timed.spent_s.keys() == read.keys()


@pytest.mark.parametrize(
    ("name", "stage", "is_weighted", "kernel", "expected"),
    [
        ("addmm", 0, True, (), ("projections", 0)),
        ("addmm", 2, True, (), ("output", 2)),
        ("convolution", 0, True, (1, 1), ("projections", 0)),
        ("convolution", 0, True, (3, 3), ("convolutions", 0)),
        ("bmm", 0, False, (), ("QK", 1)),
        ("bmm", 1, False, (), ("AV", 2)),
        ("_softmax", 1, False, (), ("softmax", 1)),
        ("_scaled_dot_product_flash_attention_for_cpu", 0, False, (), ("kernel", 2)),
        ("roll", 0, False, (), ("partition", 0)),
        ("gelu", 2, False, (), ("elementwise", 2)),
    ],
)
def test_what_operators_are(
    name: str, stage: int, is_weighted: bool, kernel: tuple[int, ...], expected: tuple[str, int]
) -> None:
    """By name, by how far the data have come, and by whether weights take part."""
    assert _phases.classify(name, stage, is_weighted, kernel) == expected


def test_what_has_no_phases() -> None:
    """A training step, and a call whose operators nobody sees."""
    layer = nn.Linear(4, 4)
    x = torch.randn(2, 4)
    assert shares(layer, lambda: layer(x).sum().backward()) == {}
    with torch.inference_mode():
        assert shares(layer, lambda: layer(x), is_dispatched=False) == {}
        assert shares(layer, lambda: layer(x)) != {}
