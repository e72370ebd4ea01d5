"""Correct before fast: an output against the eager implementation in higher precision."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vitbench.instruments import Column

if TYPE_CHECKING:
    import torch
    from torch import Tensor

COLUMNS = (
    Column(
        "checked_against",
        "",
        "reference of the output check: in float64, else in the case's dtype, else `nothing`, and "
        "why not",
        "text",
    ),
    Column("error_rms", "share", "rms difference from that reference, relative to its rms"),
    Column("error_worst", "share", "largest difference, relative to its rms"),
)

# The rms error of a layer that sums products of K terms in a dtype with unit roundoff u grows
# like u times a few roundings for each stage of the layer (projection, scores, softmax, mixing,
# projection), the accumulation itself being in fp32 or wider. Measured over the catalogue on a
# CPU: below 3 eps in bf16 and fp16, below 6 eps in fp32 and fp64, where accumulation counts.
_RMS_EPS = {"float64": 64.0, "float32": 32.0, "bfloat16": 8.0, "float16": 8.0}
# The worst element of a million lies some 5 standard deviations out, and the errors' own scale
# varies along the channels.
_WORST_TO_RMS = 16.0
# Of a quantized module, whose activations and weights are rounded to 8 bits. Measured in three
# runtimes: 0.0004 to 0.058 over the catalogue, 0.014 to 0.059 for whole models. A constant is off
# by a third or more: at 32 x 32 tokens softmax attention averages most of its input away, and the
# outputs of a model of random weights differ by half from image to image.
_INT8_RMS = 0.10
# What lies outside the range that calibration saw is cut off: one value of hilo was off by 1.7.
_INT8_WORST = 3.2


class WrongOutput(Exception):
    """The output is not what the mechanism defines."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Distance from the reference, relative to the reference's rms: measured, or allowed."""

    rms: float
    worst: float


def budget(dtype: torch.dtype, *, tf32: bool = False, layers: int = 1) -> Errors:
    """The error budget of a dtype that computes; TF32 products round their inputs to 10 bits, as
    fp16 does.

    Independent rounding errors of `layers` layers in a row add up like the root of their number.
    """
    import torch

    if tf32 and dtype == torch.float32:
        dtype = torch.float16
    rms = _RMS_EPS[str(dtype).removeprefix("torch.")] * torch.finfo(dtype).eps * layers**0.5
    return Errors(rms, rms * _WORST_TO_RMS)


def int8_budget() -> Errors:
    """The error budget of a module whose products are quantized."""
    return Errors(_INT8_RMS, _INT8_WORST)


def errors(output: Tensor, reference: Tensor) -> Errors:
    """Root mean square and largest absolute difference over the reference's rms."""
    import torch

    reference = reference.double()
    difference = output.double() - reference
    scale = reference.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return Errors(
        rms=float(difference.square().mean().sqrt() / scale),
        worst=float(difference.abs().max() / scale),
    )


def joint_errors(outputs: Sequence[Tensor], references: Sequence[Tensor]) -> Errors:
    """The errors over several tensors as over one: of tensors whose scales are not their own."""
    squares = scales = worst = 0.0
    for output, reference in zip(outputs, references, strict=True):
        difference = output.double() - reference.double()
        squares += float(difference.square().sum())
        scales += float(reference.double().square().sum())
        worst = max(worst, float(difference.abs().max()))
    count = sum(reference.numel() for reference in references)
    rms = max((scales / count) ** 0.5, sys.float_info.min)
    return Errors((squares / count) ** 0.5 / rms, worst / rms)


def worst_of(outputs: Sequence[Tensor], references: Sequence[Tensor]) -> Errors:
    """The largest errors over several outputs."""
    pairs = [errors(out, ref) for out, ref in zip(outputs, references, strict=True)]
    return Errors(max(pair.rms for pair in pairs), max(pair.worst for pair in pairs))


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors of an output: itself, or those of a list, tuple or dict."""
    from torch import Tensor
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def fault_of_tensors(outputs: Sequence[Tensor]) -> str | None:
    """Why a backbone's outputs cannot be right: none at all, NaN or infinity."""
    if not outputs:
        return "the output must hold tensors, got none"
    return next((fault for fault in map(_fault_of_finiteness, outputs) if fault), None)


def fault_of_form(output: object, like: Tensor) -> str | None:
    """Why an output cannot be right whatever its values: type, shape, dtype, NaN or infinity."""
    from torch import Tensor

    if not isinstance(output, Tensor):
        return f"the output must be a tensor, got {type(output).__name__}"
    if output.shape != like.shape:
        return f"the output's shape must be {tuple(like.shape)}, got {tuple(output.shape)}"
    if output.dtype != like.dtype:
        return f"the output's dtype must be {like.dtype}, got {output.dtype}"
    return _fault_of_finiteness(output)


def _fault_of_finiteness(output: Tensor) -> str | None:
    wrong = int((~output.isfinite()).sum())
    if wrong:
        return f"the output must be finite, got {wrong} of {output.numel()} values NaN or infinite"
    return None


def fault_of_value(found: Errors, allowed: Errors) -> str | None:
    """Why an output differs too much from its reference."""
    if found.rms <= allowed.rms and found.worst <= allowed.worst:
        return None
    return (
        f"the output differs from the eager implementation in higher precision by "
        f"{found.rms:.2e} rms and {found.worst:.2e} at most, relative to its rms; "
        f"the dtype allows {allowed.rms:.2e} and {allowed.worst:.2e}"
    )
