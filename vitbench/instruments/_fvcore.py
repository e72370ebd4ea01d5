"""MACs of a module, by fvcore on the eager implementation, on tensors without data."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

with warnings.catch_warnings():
    # Importing fvcore scripts a loss function that we do not use, which torch >= 2.12 deprecates.
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape


def count(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """MACs of `module` on one input of `input_shape` (batch 1). The module itself is not touched.

    Runs on the meta device: any size, no arithmetic. The module must be the eager one, since
    fvcore scores fused kernels as zero.
    """
    try:
        analysis = _analysis(module, input_shape, "meta")
    # An operator without a meta kernel raises whatever its author chose: run it for real then.
    except Exception:
        analysis = _analysis(module, input_shape, "cpu")
    return sum(map(int, analysis.by_operator().values()))


def _analysis(module: nn.Module, input_shape: tuple[int, ...], device: str) -> FlopCountAnalysis:
    with torch.inference_mode(False):  # inference tensors cannot be traced
        bare = copy.deepcopy(module).to(device).float().eval()
        analysis = FlopCountAnalysis(bare, torch.empty(input_shape, device=device))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        analysis.set_op_handle("aten::baddbmm", _baddbmm)
        analysis.set_op_handle("vitbench::convolution", _count_convolution)
        analysis.set_op_handle("aten::_convolution_mode", _count_mode)
        analysis.set_op_handle("torchvision::deform_conv2d", _count_mode)
        with _ConvolutionsAsOperators() if device == "meta" else contextlib.nullcontext():
            analysis.total()  # traces; what follows reads the result
    return analysis


def _empty(x: Tensor, weight: Tensor, size: list[int], transposed: bool) -> Tensor:
    return x.new_empty(size)


# One node of the trace for each convolution: this gives it its shape, and the handle below counts
# it. Defined once, since torch has one table of operators for the process.
_OPERATORS = torch.library.Library("vitbench", "DEF")
_OPERATORS.define("convolution(Tensor x, Tensor weight, int[] size, bool transposed) -> Tensor")
_OPERATORS.impl("convolution", _empty, "Meta")


class _ConvolutionsAsOperators(TorchFunctionMode):
    """Makes each convolution on the meta device one operator of ours.

    torch.jit does not record aten::convolution but what its kernel calls, and on the meta device
    that kernel is Python: torch 2.11 would give a trace without a convolution, to be counted as
    zero, and later versions refuse to trace it.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.convolution:
            raise NotImplementedError("a convolution through its general operator")
        if func not in _CONVOLUTIONS:
            return func(*args, **(kwargs or {}))
        set_trace: Callable[..., None] = torch._C._set_tracing_state  # type: ignore[attr-defined] # not in stubs
        trace = torch._C._get_tracing_state()
        set_trace(None)
        try:
            size = list(func(*args, **(kwargs or {})).shape)
        finally:
            set_trace(trace)
        named = dict(zip(("input", "weight"), args, strict=False)) | dict(kwargs or {})
        x, weight = named["input"], named["weight"]
        if x.dim() != weight.dim():
            raise NotImplementedError("a convolution of a map without a batch")
        return torch.ops.vitbench.convolution(x, weight, size, _CONVOLUTIONS[func])


# Whether it is transposed.
_CONVOLUTIONS: Mapping[Callable[..., Any], bool] = {
    torch.conv1d: False,
    torch.conv2d: False,
    torch.conv3d: False,
    torch.conv_transpose1d: True,
    torch.conv_transpose2d: True,
    torch.conv_transpose3d: True,
}


def _count_mode(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """A convolution that fvcore does not know: its padding is a word, or its taps are moved."""
    batch, _, *laid_on = get_shape(outputs[0])
    return Counter({"conv": batch * math.prod(get_shape(inputs[1])) * math.prod(laid_on)})


def _count_convolution(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    """Kernel elements times the positions at which the kernel is laid."""
    transposed = bool(inputs[3].toIValue())
    batch, _, *laid_on = get_shape(inputs[0] if transposed else outputs[0])
    return Counter({"conv": batch * math.prod(get_shape(inputs[1])) * math.prod(laid_on)})


def _baddbmm(inputs: list[object], outputs: list[object]) -> Counter[str]:
    """bias + a @ b, which fvcore does not know: batch x rows x inner x columns."""
    batch, rows, inner = get_shape(inputs[1])
    columns = get_shape(inputs[2])[-1]
    return Counter({"matmul": batch * rows * inner * columns})
