"""What a CPU emulates is computed in fp32, outside of what is measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import attentions
from tests.vitbench import examples
from vitbench import devices
from vitbench.cases.case import Case
from vitbench.engine import messages
from vitbench.engine.worker import Worker
from vitbench.subjects import build, wrappers
from vitbench.subjects.wrappers import CastedModule, is_emulated

HALVES = (torch.bfloat16, torch.float16)


@pytest.fixture
def emulating(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for half precision, whichever this is."""
    monkeypatch.setattr(wrappers, "is_emulated", lambda dtype: dtype in HALVES)


def case(name: str, **changes: Any) -> Case:
    """A mechanism at stride 16 of a small backbone, fused, in bf16 on the CPU."""
    spec = attentions.load(name)
    params = {**spec.settings_at(16), **spec.checked_with}
    usual: dict[str, Any] = {"attention": name, "params": tuple(sorted(params.items()))}
    usual |= {"grid_height": 8, "grid_width": 8, "image_height": 128, "image_width": 128}
    usual |= {"dim": 48, "num_heads": 6, "dtype": "bfloat16"}
    return examples.case(**usual | changes)


@pytest.mark.usefixtures("emulating")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", sorted({*attentions.names()} - {"pooling"}))
def test_it_is_what_fp32_gives_rounded_once(name: str, dtype: str) -> None:
    """The fp32 result of the same rounded weights and input, in the case's dtype; and no layer gets
    what the CPU emulates."""
    subject = build.build(case(name, dtype=dtype), {})
    seen: set[torch.dtype] = set()
    for part in subject.module.modules():
        part.register_forward_pre_hook(
            lambda _, inputs: seen.update(one.dtype for one in pytree.tree_leaves(inputs))
        )
    with torch.inference_mode():
        output = subject.call()
        expected = subject.module(subject.x.float())
    assert seen <= {torch.float32}
    assert output.dtype == subject.x.dtype == getattr(torch, dtype)
    assert torch.equal(output, expected.to(output.dtype))
    rounded = build.build_module(case(name), {}, "eager").to(output.dtype).state_dict()
    for key, tensor in subject.module.state_dict().items():
        assert torch.equal(tensor.double(), rounded[key].double())


class Several(nn.Module):
    """Images to maps by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, 2)

    def forward(self, images: Tensor) -> dict[str, Any]:
        assert images.dtype == torch.float32
        maps = self.conv(images)
        return {"maps": [maps, maps + 1], "count": 1}


def test_outputs_of_any_form() -> None:
    """The tensors in an output get the input's dtype; what is none stays."""
    output = CastedModule(Several().half())(torch.randn(2, 3, 8, 6).half())
    assert output["count"] == 1
    assert [one.dtype for one in output["maps"]] == [torch.float16] * 2
    assert [tuple(one.shape) for one in output["maps"]] == [(2, 4, 4, 3)] * 2


@pytest.mark.usefixtures("emulating")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attention": "pooling", "params": (("pool_size", 3),)}, ""),  # it multiplies nothing
        ({}, "computes in float32: this CPU emulates bfloat16"),
        ({"dtype": "float16"}, "computes in float32: this CPU emulates float16"),
        ({"dtype": "float32"}, ""),
        ({"impl": "eager"}, ""),
        ({"mode": "forward_backward"}, ""),
    ],
)
def test_the_row_says_so(changes: dict[str, Any], reason: str) -> None:
    """Only a fused forward pass is cast: a backward pass needs what the layers kept, in their own
    dtype, and eager is what the equations cost."""
    changed = case("msa", **changes)
    assert build.fallback(changed, {}) == reason
    computed = "float32" if reason else changed.dtype
    assert build.computed_dtype(changed, {}) == computed
    assert computed in build.dtypes_computed(devices.connect("cpu"), [changed.dtype])
    parameters = build.build(changed, {}).module.parameters()
    expected = torch.float32 if reason else getattr(torch, changed.dtype)
    assert {parameter.dtype for parameter in parameters} <= {expected}


@pytest.mark.usefixtures("emulating")
def test_ceilings_are_of_what_computes() -> None:
    """A worker measures fp32's too where a dtype is emulated."""
    threads = torch.get_num_threads()
    try:
        ready = Worker().answer(messages.SetUp(device="cpu", ceilings=("bfloat16",)))
    finally:  # what a worker sets for its process
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
    assert isinstance(ready, messages.Ready)
    assert ready.ceilings is not None
    assert set(ready.ceilings.flops_rate) == {"bfloat16", "float32"}


def test_a_cpu_without_onednn_emulates_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing there multiplies halves but the loops that are written for every type. Other dtypes
    are never emulated."""
    assert all(isinstance(is_emulated(dtype), bool) for dtype in HALVES)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    dtypes = (*HALVES, torch.float32, torch.float64)
    assert [is_emulated.__wrapped__(dtype) for dtype in dtypes] == [True, True, False, False]
