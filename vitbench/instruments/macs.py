"""MACs of a module, by fvcore on the eager implementation, on tensors without data."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

with warnings.catch_warnings():
    # Importing fvcore scripts a loss function that we do not use, which torch >= 2.12 deprecates.
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import get_shape


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
    bare = copy.deepcopy(module).to("meta").eval()
    analysis = FlopCountAnalysis(bare, torch.empty(input_shape, device="meta"))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    analysis.tracer_warnings("none")
    analysis.set_op_handle("aten::baddbmm", _baddbmm)
    counted = {name: int(flops) for name, flops in analysis.by_operator().items() if flops}
    uncounted: Counter[str] = analysis.unsupported_ops()
    return Macs(
        total=sum(counted.values()),
        counted=counted,
        uncounted={name.removeprefix("aten::"): n for name, n in sorted(uncounted.items())},
    )


def _baddbmm(inputs: list[object], outputs: list[object]) -> Counter[str]:
    """bias + a @ b, which fvcore does not know: batch x rows x inner x columns."""
    batch, rows, inner = get_shape(inputs[1])
    columns = get_shape(inputs[2])[-1]
    return Counter({"matmul": batch * rows * inner * columns})


def params(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
