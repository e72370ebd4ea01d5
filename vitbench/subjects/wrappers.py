"""Modules around a module: how it is computed on this machine, whatever it computes."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def converted(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module itself, with its real parameters and buffers in a dtype, and its complex ones in
    the complex dtype of that precision; Module.to(dtype) drops their imaginary parts.
    """

    def convert(x: Tensor) -> Tensor:
        if x.is_complex():
            return x.to(dtype.to_complex())
        return x.to(dtype) if x.is_floating_point() else x

    return module._apply(convert)


class CastedModule(nn.Module):
    """A module that computes in fp32 for inputs and outputs of another dtype.

    Its parameters and buffers are converted here, once, and keep their values; the output is
    rounded once, at the end.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = converted(module, torch.float32)

    def forward(self, x: Tensor) -> Any:
        output = self.module(x.float())
        return pytree.tree_map_only(Tensor, lambda tensor: tensor.to(x.dtype), output)


@functools.cache
def is_emulated(dtype: torch.dtype) -> bool:
    """Whether this CPU emulates matrix products in this dtype.

    They are then far slower than in fp32. On a CPU with AVX2, bf16 takes 7 (linear layer), 24
    (batched product), 44 (3 x 3 convolution), 90 (depthwise convolution on a channels-last map)
    times as long.
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
