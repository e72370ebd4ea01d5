"""What a CPU emulates is computed in fp32."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import attentions
from attentions import Grid, _halves
from attentions._halves import instead, is_emulated, widened
from tests.attentions.budget import assert_within

HALVES = (torch.bfloat16, torch.float16)
# Pooling has nothing to multiply.
WIDENED = sorted({*attentions.names()} - {"pooling"})


@pytest.fixture
def emulating(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for half precision, whichever this is."""
    monkeypatch.setattr(_halves, "is_emulated", lambda dtype: dtype in HALVES)


def mechanism(name: str, impl: str) -> nn.Module:
    """At stride 16 of a small backbone, its weights drawn anew."""
    torch.manual_seed(0)
    spec = attentions.load(name)
    params = {**spec.settings_at(16), **spec.checked_with}
    module = spec.build(48, 6, Grid(14, 14), impl=impl, **params)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.1)
    return module.eval()


@pytest.mark.usefixtures("emulating")
@pytest.mark.parametrize("dtype", HALVES, ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", WIDENED)
def test_it_is_what_fp32_gives_rounded_once(name: str, dtype: torch.dtype) -> None:
    """Of the same rounded weights and input; nothing is rounded on the way."""
    module = mechanism(name, "fused").to(dtype)
    x = torch.randn(2, 14, 14, 48).to(dtype)
    wide = copy.deepcopy(module).float()
    with torch.inference_mode():
        found, expected = module(x), wide(x.float())
    assert found.dtype == dtype
    assert found.shape == x.shape
    # Another grouping of the images may round another way in fp32.
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found.float(), expected, rtol=eps, atol=eps * 0.01)


@pytest.mark.usefixtures("emulating")
def test_parameters_stay_as_they_are() -> None:
    """Names, dtypes and identity, before, during and after a call; one that fails among them."""
    module = mechanism("hilo", "fused").bfloat16()
    before = dict(module.named_parameters())
    with torch.inference_mode():
        module(torch.randn(2, 14, 14, 48, dtype=torch.bfloat16))
        with pytest.raises(RuntimeError):
            module(torch.randn(2, 14, 14, 50, dtype=torch.bfloat16))
    after = dict(module.named_parameters())
    assert list(before) == list(after) == list(mechanism("hilo", "eager").state_dict())
    assert all(before[name] is after[name] for name in before)
    assert {one.dtype for one in after.values()} == {torch.bfloat16}


@pytest.mark.usefixtures("emulating")
def test_changed_weights_are_seen() -> None:
    """No widened copy is kept from call to call."""
    module = mechanism("msa", "fused").bfloat16()
    x = torch.randn(1, 14, 14, 48, dtype=torch.bfloat16)
    with torch.inference_mode():
        first = module(x)
        for parameter in module.parameters():
            parameter.zero_()
        assert first.any()
        assert not module(x).any()


@given(
    images=st.integers(1, 5),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float64, *HALVES]),
)
def test_any_map(images: int, height: int, width: int, dtype: torch.dtype) -> None:
    """Whatever is taken at a time, and whether this CPU emulates the dtype or not."""
    torch.manual_seed(height)
    layer = nn.Linear(6, 6).to(dtype)
    x = torch.randn(images, height, width, 6).to(dtype)
    expected = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    with torch.inference_mode():
        found = widened(copy.deepcopy(layer))(x)
    assert found.dtype == dtype
    assert_within(found, expected, what=f"{dtype} {tuple(x.shape)}")


class Several(nn.Module):
    """Images to maps by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, 2)
        self.seen: list[torch.dtype] = []

    def forward(self, images: Tensor, *, twice: bool = False) -> dict[str, Any]:
        self.seen.append(images.dtype)
        made = self.conv(images)
        return {"maps": [made, made + 1] if twice else [made], "count": 1}


@pytest.mark.usefixtures("emulating")
def test_outputs_of_any_form() -> None:
    """Tensors inside are narrowed, what is none is passed on, and so are keywords."""
    module = widened(Several().half(), same_shape=False)
    with torch.inference_mode():
        made = module(torch.randn(2, 3, 8, 6).half(), twice=True)
    assert module.seen == [torch.float32]
    assert made["count"] == 1
    assert [one.dtype for one in made["maps"]] == [torch.float16] * 2
    assert [tuple(one.shape) for one in made["maps"]] == [(2, 4, 4, 3)] * 2


@pytest.mark.usefixtures("emulating")
@pytest.mark.parametrize("dtype", HALVES, ids=["bf16", "fp16"])
def test_with_gradients_it_computes_as_it_is(dtype: torch.dtype) -> None:
    """A backward pass needs what the layers kept, in the module's own dtype."""
    module = widened(Several().to(dtype), same_shape=False)
    module(torch.randn(2, 3, 8, 6).to(dtype))["maps"][0].sum().backward()
    assert module.seen == [dtype]
    assert {one.grad.dtype for one in module.parameters() if one.grad is not None} == {dtype}


def test_a_copy_and_a_pickle_are_widened_too() -> None:
    """And isinstance, state-dict keys and values are those of the module."""
    module = mechanism("hilo", "fused")
    x = torch.randn(1, 14, 14, 48)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), loaded):
        assert isinstance(other, attentions.load("hilo").module)
        assert type(other) is type(module)
        assert other.state_dict().keys() == module.state_dict().keys()
        with torch.inference_mode():
            assert torch.equal(other(x), module(x))
    assert type(module).__name__ == "HiLo"


@pytest.mark.usefixtures("emulating")
def test_what_it_does_is_told() -> None:
    """By the module that does it, for the dtypes where it does."""
    fused, eager = mechanism("msa", "fused"), mechanism("msa", "eager")
    assert instead(fused, torch.bfloat16) == "computes in float32: this CPU emulates bfloat16"
    assert instead(nn.Sequential(fused), torch.float16) is not None
    assert instead(fused, torch.float32) is None
    assert instead(eager, torch.bfloat16) is None


def test_nothing_else_is_emulated() -> None:
    assert not is_emulated(torch.float32)
    assert not is_emulated(torch.float64)
    assert all(isinstance(is_emulated(dtype), bool) for dtype in HALVES)


@pytest.mark.parametrize("dtype", HALVES, ids=["bf16", "fp16"])
def test_a_cpu_without_onednn_emulates_them(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing there multiplies them but the loops that are written for every type."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert is_emulated.__wrapped__(dtype)


@pytest.mark.usefixtures("emulating")
@pytest.mark.parametrize("dtype", HALVES, ids=["bf16", "fp16"])
@pytest.mark.parametrize("name", WIDENED)
def test_products_are_in_fp32(name: str, dtype: torch.dtype) -> None:
    """No layer inside gets what the CPU emulates."""
    module = mechanism(name, "fused").to(dtype)
    seen: set[torch.dtype] = set()
    for part in module.modules():
        if part is not module:
            part.register_forward_pre_hook(
                lambda _, given: seen.update(one.dtype for one in pytree.tree_leaves(given))
            )
    with torch.inference_mode():
        module(torch.randn(1, 14, 14, 48, dtype=dtype))
    assert seen <= {torch.float32}
    assert instead(module, dtype) is not None
