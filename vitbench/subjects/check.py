"""The output of a case, compared with what its mechanism defines."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitbench import runtimes
from vitbench.cases.case import Case
from vitbench.errors import named
from vitbench.instruments import correctness
from vitbench.instruments.correctness import WrongOutput, tensors_in
from vitbench.subjects import build as subjects

# A reference in fp64 of a large map takes longer than all else together; from this many tokens
# on, the check is made on a smaller map of the same mechanism, and the row says so.
MAX_CHECKED_TOKENS = 1600
# Where a mechanism is checked with everything to choose from, every token meets every other.
MAX_CHOOSING_TOKENS = 256
# Rounding errors add up over a model; budgets are for one layer and grow with the root of depth.
BACKBONE_LAYERS = 64


def check_form(case: Case, subject: subjects.Subject, output: object) -> None:
    """Raises WrongOutput where the output is wrong whatever its values."""
    if case.attention:
        fault = correctness.fault_of_form(output, subject.x)
    else:
        fault = correctness.fault_of_tensors(tensors_in(output))
    if fault is not None:
        raise WrongOutput(fault)


@dataclass(frozen=True, slots=True)
class _Compared:
    """The errors against a reference in `dtype`; `why_not` a better one, in words."""

    errors: correctness.Errors
    dtype: str
    why_not: str = ""


class _NoReference(Exception):
    """There is nothing to compare the output with; the message says why, in words."""


def check_values(
    case: Case, subject: subjects.Subject, output: object, plugins: subjects.Plugins
) -> dict[str, Any]:
    """The columns of `correctness`, against the eager implementation in fp64, or in the case's
    dtype where it cannot run in fp64. Where it can run in neither, the errors are None.

    Raises WrongOutput.
    """
    choices = subjects.checked_with(case, plugins)
    limit = MAX_CHOOSING_TOKENS if choices else MAX_CHECKED_TOKENS
    at = []
    try:
        if not choices and (case.backbone or case.grid.tokens <= limit):
            compared = _against_eager(case, subject, output, plugins)
        else:
            other = _checkable(case, plugins, choices, limit)
            compared = _on_its_own(other, plugins)
            at += [] if case.backbone else [f"at {other.grid} tokens"]
            at += [f"with {name}={value}" for name, value in choices.items()]
        if choices:
            # That the right things are chosen is seen in fp64, where a tie is too rare to meet.
            double = dataclasses.replace(case, dtype="float64")
            _on_its_own(_checkable(double, plugins, {}, limit), plugins)
            at.append("and as it is in float64")
    except _NoReference as reason:
        return {"checked_against": f"nothing: {reason}", "error_rms": None, "error_worst": None}
    against = " ".join(["eager", compared.dtype, *at])
    return {
        "checked_against": against + (f": {compared.why_not}" if compared.why_not else ""),
        "error_rms": compared.errors.rms,
        "error_worst": compared.errors.worst,
    }


def _on_its_own(case: Case, plugins: subjects.Plugins) -> _Compared:
    """The comparison of a case that is built for the check alone."""
    try:
        small = subjects.build(case, plugins)
        output = small.call()
    # A module may raise anything on a map or in a dtype that the case does not have.
    except Exception as error:
        raise _NoReference(
            f"at {case.grid} tokens in {case.dtype} it fails ({named(error)})"
        ) from None
    return _against_eager(case, small, output, plugins)


def _checkable(
    case: Case, plugins: subjects.Plugins, params: Mapping[str, Any], limit: int
) -> Case:
    """The case on a map of at most `limit` tokens that the mechanism supports, as large and as
    oblong as the case's as can be. Raises _NoReference where there is none.
    """
    merged = tuple(sorted((dict(case.params) | dict(params)).items()))
    other = dataclasses.replace(
        case, params=merged, batch_size=min(case.batch_size, 2), runtime=runtimes.DEFAULT
    )
    if case.backbone:  # its size is fixed
        return other
    shape = math.log(case.grid_height / case.grid_width)

    def difference(size: tuple[int, int]) -> tuple[bool, float, int]:
        height, width = size
        stretch = abs(math.log(height / width) - shape)
        return height * width < limit // 2, round(stretch, 1), -height * width

    sizes = itertools.product(range(1, case.grid_height + 1), range(1, case.grid_width + 1))
    for height, width in sorted((s for s in sizes if s[0] * s[1] <= limit), key=difference):
        other = dataclasses.replace(
            other,
            grid_height=height,
            grid_width=width,
            image_height=height * case.stride,
            image_width=width * case.stride,
        )
        if subjects.reason_against(other, plugins) is None:
            return other
    raise _NoReference(
        f"it supports no map of at most {limit} tokens, on which it could be checked"
    )


def _against_eager(
    case: Case, subject: subjects.Subject, output: object, plugins: subjects.Plugins
) -> _Compared:
    """First and last image of the batch against the eager implementation: an index overflow shows
    in the last."""
    why_not = []
    for dtype in dict.fromkeys((torch.float64, subject.x.dtype)):
        name = str(dtype).removeprefix("torch.")
        try:
            reference = _reference(case, subject, dtype, plugins)
            break
        # A module need not know fp64, and then may raise anything.
        except Exception as error:
            why_not.append(f"it cannot run in {name} ({named(error)})")
    else:
        raise _NoReference(", ".join(why_not))
    outputs = [t.detach()[_ends(case)] for t in tensors_in(output)]
    errors = correctness.worst_of(outputs, reference)
    layers = BACKBONE_LAYERS if case.backbone else 1
    allowed = correctness.budget(subject.x.dtype, tf32=subject.device.uses_tf32(), layers=layers)
    fault = correctness.fault_of_value(errors, allowed)
    if fault is not None:
        raise WrongOutput(fault)
    return _Compared(errors, name, ", ".join(why_not))


def _ends(case: Case) -> list[int]:
    return sorted({0, case.batch_size - 1})


def _reference(
    case: Case, subject: subjects.Subject, dtype: torch.dtype, plugins: subjects.Plugins
) -> list[Tensor]:
    """What the eager implementation gives for the first and the last image, in a dtype."""
    eager = subjects.build_module(case, plugins, subjects.reference_impl(case, plugins))
    eager.load_state_dict(subject.module.state_dict())
    # A training step is checked by its forward pass, in the mode in which it ran.
    eager = eager.to(subject.x.device, dtype).train(subject.module.training)
    x = subject.x.detach()
    with torch.no_grad():  # on a copy: a module may change its input
        if subject.module.training:  # statistics over the batch need the whole of it
            return [t[_ends(case)] for t in tensors_in(eager(x.to(dtype, copy=True)))]
        parts = [tensors_in(eager(x[i : i + 1].to(dtype, copy=True))) for i in _ends(case)]
        return [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
