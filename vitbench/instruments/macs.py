"""MACs of a module, by fvcore on the eager implementation, on tensors without data."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

with warnings.catch_warnings():
    # Importing fvcore scripts a loss function that we do not use, which torch >= 2.12 deprecates.
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape


# Operators that move no data: a view costs nothing, so leaving it out hides nothing.
_VIEWS = {"unflatten", "view_as", "reshape_as", "expand_as", "numpy_T", "numel", "squeeze"}


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates of one image.

    total      what fvcore counts, with our handles
    counted    by kind of operator
    uncounted  operators that count nothing by convention (softmax, elementwise), with how often
    """

    total: int
    counted: dict[str, int]
    uncounted: dict[str, int]


def count(module: nn.Module, input_shape: tuple[int, ...]) -> Macs:
    """Counts `module` on one input of `input_shape` (batch 1). The module itself is not touched.

    Runs on the meta device: any size, no arithmetic. The module must be the eager one, since
    fvcore scores fused kernels as zero.
    """
    try:
        analysis = _analysis(module, input_shape, "meta")
    # An operator without a meta kernel raises whatever its author chose: run it for real then.
    except Exception:
        analysis = _analysis(module, input_shape, "cpu")
    counted = {name: int(flops) for name, flops in analysis.by_operator().items() if flops}
    uncounted: Counter[str] = analysis.unsupported_ops()
    return Macs(
        total=sum(counted.values()),
        counted=counted,
        uncounted={
            name.removeprefix("aten::"): n
            for name, n in sorted(uncounted.items())
            if name.removeprefix("aten::") not in _VIEWS
        },
    )


def _analysis(module: nn.Module, input_shape: tuple[int, ...], device: str) -> FlopCountAnalysis:
    with torch.inference_mode(False):  # inference tensors cannot be traced
        bare = copy.deepcopy(module).to(device, torch.float32).eval()
        analysis = FlopCountAnalysis(bare, torch.empty(input_shape, device=device))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        analysis.tracer_warnings("none")
        analysis.set_op_handle("aten::baddbmm", _baddbmm)
        with _checks_take_tensors():
            analysis.total()  # traces; what follows reads the result
    return analysis


@contextlib.contextmanager
def _checks_take_tensors() -> Iterator[None]:
    """Lets torch._check take the tensors that sizes become while torch.jit traces.

    The meta kernels of several operators (convolution, for one) are Python that checks sizes, and
    the check insists on a bool.
    """
    check_with = torch._check_with

    def check(error_type: Any, cond: Any, message: Any) -> None:
        check_with(error_type, bool(cond), message)

    torch._check_with = check
    try:
        yield
    finally:
        torch._check_with = check_with


def _baddbmm(inputs: list[object], outputs: list[object]) -> Counter[str]:
    """bias + a @ b, which fvcore does not know: batch x rows x inner x columns."""
    batch, rows, inner = get_shape(inputs[1])
    columns = get_shape(inputs[2])[-1]
    return Counter({"matmul": batch * rows * inner * columns})


def params(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
