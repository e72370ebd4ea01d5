"""A mechanism beside timm's module for it: the same weights, outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.attentions.draws import Draw, shake

Weights = Mapping[str, Tensor]


def assert_is_timms(
    draw: Draw,
    theirs: nn.Module,
    *,
    call: Callable[[Any, Tensor], Tensor],
    renamed: Callable[[Weights], Weights] = dict,
    rtol: float = 1e-9,
) -> None:
    """Output and all gradients in fp64, of both implementations, with timm's state dict loaded.

    `call` gives timm's output for a channels-last map, and `renamed` a state dict of timm's under
    our names; shapes may differ where their elements lie in the same order.
    """
    theirs = shake(theirs).double().eval()
    x, cotangent = draw.input(batch=2).double(), draw.input(batch=2, seed=1).double()
    expected = gradients(theirs, x, cotangent, call)
    output, of_input = expected.pop(""), expected.pop("x")
    for impl in ("eager", "fused"):
        ours: Any = draw.build(impl).double()
        load(ours, renamed(theirs.state_dict()))
        results = gradients(ours, x, cotangent, lambda module, x: module(x))
        assert_close(results.pop(""), output, rtol)
        assert_close(results.pop("x"), of_input, rtol)
        translated = renamed(expected)
        assert results.keys() == translated.keys()
        for name, gradient in results.items():
            assert_close(gradient, translated[name].reshape(gradient.shape), rtol, name)


def load(module: nn.Module, weights: Weights) -> None:
    """Every parameter has to be there; buffers that are made of the settings need not be."""
    state = module.state_dict()
    assert weights.keys() <= state.keys(), weights.keys() - state.keys()
    assert {name for name, _ in module.named_parameters()} <= weights.keys()
    module.load_state_dict(
        state | {name: value.reshape(state[name].shape) for name, value in weights.items()}
    )


def gradients(
    module: nn.Module, x: Tensor, cotangent: Tensor, call: Callable[[Any, Tensor], Tensor]
) -> dict[str, Tensor]:
    """The output under "", and the gradients of the input and of each parameter, by name."""
    x = x.clone().requires_grad_()
    named = dict(module.named_parameters())
    output = call(module, x)
    found = torch.autograd.grad(output, [x, *named.values()], cotangent)
    return dict(zip(["", "x", *named], [output.detach(), *found], strict=True))


def assert_close(result: Tensor, expected: Tensor, rtol: float, what: str = "output") -> None:
    torch.testing.assert_close(
        result, expected, rtol=rtol, atol=rtol / 10, msg=lambda text: f"{what}: {text}"
    )


def channels_first(module: Any, x: Tensor) -> Tensor:
    """For a module that maps (batch, dim, height, width)."""
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
