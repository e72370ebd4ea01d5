"""Half precision on a CPU that has no instructions for it: computed in fp32."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from attentions._groups import in_groups, is_grouped

# Tokens that are widened at a time. In fp32 everything takes twice the memory, and a matrix product
# of some hundred rows already runs at nine tenths of its rate.
_TOKENS = 512


@functools.cache
def is_emulated(dtype: torch.dtype) -> bool:
    """Whether matrix products in this dtype are emulated on this CPU.

    They are then slower than in fp32 by far, on an AVX2 CPU in bf16: 7 (linear layer), 24 (batched
    product), 44 (3 x 3 convolution), 90 (depthwise convolution on a channels-last map) times.
    """
    if dtype not in (torch.bfloat16, torch.float16):
        return False
    if not torch.backends.mkldnn.is_available():
        return True
    supported = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    return not supported[dtype]()


def instead(module: nn.Module, dtype: torch.dtype) -> str | None:
    """What a module with a widened part computes in, and why, where it gets this dtype on this CPU;
    None where it computes in it."""
    if not is_emulated(dtype) or not any(hasattr(part, "is_widened") for part in module.modules()):
        return None
    return f"computes in float32: this CPU emulates {str(dtype).removeprefix('torch.')}"


def widened(module: nn.Module, *, same_shape: bool = True) -> nn.Module:
    """The module, which from now on computes in fp32 what this CPU emulates.

    Its parameters stay as they are: they are widened for each call, as is the input, and the output
    is narrowed.

    same_shape  the output has the shape of the input, a channels-last map: a few images are taken
                at a time, so that less is held in fp32
    """
    if not hasattr(module, "is_widened"):
        kind = _wide_class(type(module), same_shape)  # type: ignore[arg-type] # a class is hashable
        module.__class__ = kind
    return module


@functools.cache
def _wide_class(narrow: type[nn.Module], same_shape: bool) -> type[nn.Module]:
    """A class of the same name beneath `narrow`: isinstance and state-dict keys stay."""

    def forward(self: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not (is_grouped(x) and is_emulated(x.dtype)):
            return narrow.forward(self, x, *args, **kwargs)
        wide: dict[str, Tensor] = {
            # A mechanism may ask whether it has a parameter.
            name: nn.Parameter(tensor.float(), requires_grad=False)
            for name, tensor in self.named_parameters()
            if tensor.dtype == x.dtype
        }
        wide |= {name: one.float() for name, one in self.named_buffers() if one.dtype == x.dtype}

        def call(part: Tensor) -> Any:
            made = functional_call(self, wide, (part.float(), *args), kwargs)
            return pytree.tree_map_only(Tensor, lambda one: one.to(x.dtype), made)

        # Eight results as wide as the map, twice as large.
        channels = 16 * x.shape[-1]
        return in_groups(call, x, channels, tokens=_TOKENS) if same_shape else call(x)

    def reduce(self: nn.Module, protocol: object) -> Any:
        return _remade, (narrow, same_shape), self.__dict__

    body = {
        "forward": forward,
        "__reduce_ex__": reduce,
        "__module__": narrow.__module__,
        "is_widened": True,
    }
    return type(narrow.__name__, (narrow,), body)


def _remade(narrow: type[nn.Module], same_shape: bool) -> nn.Module:
    """What pickle and deepcopy begin with: the class has no place where they could find it."""
    wide = _wide_class(narrow, same_shape)  # type: ignore[arg-type] # as above
    return wide.__new__(wide)
