"""Devices by name: what is known without torch, and what is here."""

from __future__ import annotations

import pytest

from vitbench import devices
from vitbench.cases.axes import AXES
from vitbench.cases.plan import EFFORTS
from vitbench.devices import cuda
from vitbench.errors import BadInput
from vitbench.instruments.timing import TimingRule


@pytest.mark.parametrize("kind", devices.names())
def test_the_rules_are_complete(kind: str) -> None:
    """Rounds for every effort, a rate for every dtype, and a timing rule that is one."""
    rules = devices.rules(kind)
    assert set(rules.rounds) == set(EFFORTS)
    assert set(rules.macs_per_s) == set(AXES["dtype"].choices)
    assert TimingRule(**rules.timing)


def test_names() -> None:
    """Accelerators stand first; an index names one of several of them."""
    assert devices.names() == ("cuda", "mps", "xpu", "cpu")
    assert devices.choices() == ("auto", "cpu", "cuda", "cuda:1", "mps", "xpu", "xpu:1")
    assert devices.kind_of("cuda:1") == "cuda"
    assert devices.rules("cuda:1") is cuda.RULES


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gpu", "nearest: xpu, cpu"),
        ("cud", "nearest: cuda"),
        ("", "known: auto, cpu, cuda, cuda:1, mps, xpu"),
        ("cuda:", "nearest: cuda"),
        ("cuda:x", "nearest: cuda"),
        ("cpu\n", "nearest: cpu"),
        ("cpu:0", "nearest: cpu"),
        ("_nvml", "known"),
    ],
)
def test_what_is_no_device_anywhere(name: str, hint: str) -> None:
    """One sentence, with the nearest that could be."""
    with pytest.raises(BadInput, match=f"no device is called .*{hint}"):
        devices.check(name)


@pytest.mark.parametrize(
    ("count", "asked", "answer"),
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (0, "cuda", "--device cuda: this machine has no CUDA device.*; try --device cpu"),
        (2, "auto", "cuda"),
        (2, "cuda:0", "cuda"),
        (2, "cuda:1", "cuda:1"),
        (2, "cuda:2", "no CUDA device 'cuda:2' is there; known: cuda:0, cuda:1"),
    ],
)
def test_what_is_here(monkeypatch: pytest.MonkeyPatch, count: int, asked: str, answer: str) -> None:
    """`auto` is the first accelerator; what is not here is said in words."""
    monkeypatch.setattr(cuda.Device, "count", lambda: count)
    monkeypatch.setattr(cuda.Device, "reason_for_none", lambda: "for a reason")
    devices.connect.cache_clear()
    if " " in answer:
        with pytest.raises(BadInput, match=answer):
            devices.connect(asked)
    else:
        assert devices.connect(asked).name == answer
    devices.connect.cache_clear()
