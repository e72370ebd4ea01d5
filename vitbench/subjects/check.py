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

from vitbench import devices, runtimes
from vitbench.cases.case import Case
from vitbench.devices import Call
from vitbench.errors import named
from vitbench.instruments import correctness
from vitbench.instruments.correctness import WrongOutput, tensors_in
from vitbench.subjects import build as subjects
from vitbench.subjects import wrappers
from vitbench.subjects.behaviour import Behaviour, compared, is_of_a_user, why_outputs_differ
from vitbench.subjects.plugins import layout_hint

# A reference in fp64 of a large map takes longer than all else together; from this many tokens
# on, the check is made on a smaller map of the same mechanism, and the row says so.
MAX_CHECKED_TOKENS = 1600
# Where a mechanism is checked with everything to choose from, every token meets every other.
MAX_CHOOSING_TOKENS = 256
# Rounding errors add up over a model; budgets are for one layer and grow with the root of depth.
BACKBONE_LAYERS = 64


def check_form(
    case: Case, subject: subjects.Subject, output: object, plugins: subjects.Plugins
) -> str:
    """Raises WrongOutput where the output is wrong whatever its values. Returns a note where a
    user's layer gives more than its map.
    """
    tensors, note = tensors_in(output), ""
    if case.attention:
        if not isinstance(output, Tensor) and tensors and is_of_a_user(case, plugins):
            output = tensors[0]
            note = f"it returns {len(tensors)} tensors, of which the first is taken for the map"
        fault = correctness.fault_of_form(output, subject.x)
        if fault is not None and is_of_a_user(case, plugins):
            hint = layout_hint(case, plugins)
            fault += f"; {hint}" if hint else ""
    else:
        fault = correctness.fault_of_tensors(tensors)
    if fault is not None:
        raise WrongOutput(fault)
    return note


def check_follows_input(case: Case, subject: subjects.Subject, call: Call) -> None:
    """Raises WrongOutput where a converted module does not compute from its input what torch does:
    a conversion may keep what the first input gave."""
    original = subject.x.clone()
    subject.x.copy_(subject.another_input())
    found, reference = (tensors_in(output) for output in (call(), subject.call()))
    errors = correctness.worst_of(found, reference)
    fault = correctness.fault_of_value(errors, _allowed(case, subject))
    subject.x.copy_(original)
    if fault is not None:
        raise WrongOutput(f"converted for {case.runtime} and called on another input, {fault}")


def _allowed(case: Case, subject: subjects.Subject) -> correctness.Errors:
    """The error budget of a case."""
    if case.dtype == runtimes.INT8:
        return correctness.int8_budget()
    layers = BACKBONE_LAYERS if case.backbone else 1
    return correctness.budget(subject.x.dtype, tf32=subject.device.uses_tf32(), layers=layers)


@dataclass(frozen=True, slots=True)
class _Compared:
    """The errors against a reference in `dtype`; `why_not` a better one, in words."""

    errors: correctness.Errors
    dtype: str
    why_not: str = ""


_NO_MEMORY = "memory ran out"


class _NoReference(Exception):
    """There is nothing to compare the output with; the message says why, in words."""


def check_values(
    case: Case,
    subject: subjects.Subject,
    output: object,
    plugins: subjects.Plugins,
    *,
    keeps_state: bool = False,
) -> dict[str, Any]:
    """The columns of `correctness`, against the eager implementation in fp64, or in the case's
    dtype where it cannot run in fp64. Where it can run in neither, the errors are None.

    A user's module whose output is random, or depends on its past, is not compared; one whose
    output depends on the batch, with the whole batch. `behaviour` says so.

    Where memory runs out in all that, the output is unchecked: the case itself had enough.

    Raises WrongOutput.
    """
    try:
        return _checked_values(case, subject, output, plugins, keeps_state=keeps_state)
    except Exception as error:
        if not devices.is_out_of_memory(error):
            raise
    subject.device.release()
    return _unchecked(_NO_MEMORY) | {"behaviour": "keeps_state" if keeps_state else ""}


def _checked_values(
    case: Case,
    subject: subjects.Subject,
    output: object,
    plugins: subjects.Plugins,
    *,
    keeps_state: bool,
) -> dict[str, Any]:
    behaviour: Behaviour | None
    try:
        columns = _compared_values(case, subject, output, plugins, with_batch=False)
        return columns | {"behaviour": "keeps_state" if keeps_state else ""}
    except WrongOutput:
        if not is_of_a_user(case, plugins):
            raise
        behaviour = "keeps_state" if keeps_state else why_outputs_differ(case, subject)
        if behaviour is None:
            raise
    if behaviour == "depends_on_batch":
        columns = _compared_values(case, subject, output, plugins, with_batch=True)
    else:
        columns = _unchecked(_UNCHECKED[behaviour])
    return columns | {"behaviour": behaviour}


def _unchecked(reason: str) -> dict[str, Any]:
    return {"checked_against": f"nothing: {reason}", "error_rms": None, "error_worst": None}


_UNCHECKED: Mapping[Behaviour, str] = {
    "random": "the output is random",
    "keeps_state": "it keeps state from call to call",
}


def _compared_values(
    case: Case,
    subject: subjects.Subject,
    output: object,
    plugins: subjects.Plugins,
    *,
    with_batch: bool,
) -> dict[str, Any]:
    # A quantized module is there as it was converted: with its own choices, on its own map.
    is_quantized = case.dtype == runtimes.INT8
    choices = {} if is_quantized else subjects.checked_with(case, plugins)
    limit = MAX_CHOOSING_TOKENS if choices else MAX_CHECKED_TOKENS
    at = []
    try:
        if not choices and (is_quantized or case.backbone or case.grid.tokens <= limit):
            found = _against_eager(case, subject, output, plugins, with_batch)
            at += ["with the whole batch"] if with_batch else []
        else:
            other = _checkable(case, plugins, choices, limit)
            found = _on_its_own(other, plugins, with_batch)
            at += [] if case.backbone else [f"at {other.grid} tokens"]
            at += [f"with {name}={value}" for name, value in choices.items()]
        if choices:
            # That the right things are chosen is seen in fp64, where a tie is too rare to meet.
            double = dataclasses.replace(case, dtype="float64")
            _on_its_own(_checkable(double, plugins, {}, limit), plugins, with_batch)
            at.append("and as it is in float64")
    except _NoReference as reason:
        return _unchecked(str(reason))
    against = " ".join(["eager", found.dtype, *at])
    return {
        "checked_against": against + (f": {found.why_not}" if found.why_not else ""),
        "error_rms": found.errors.rms,
        "error_worst": found.errors.worst,
    }


def _on_its_own(case: Case, plugins: subjects.Plugins, with_batch: bool) -> _Compared:
    """The comparison of a case that is built for the check alone."""
    try:
        small = subjects.build(case, plugins)
        output = small.call()
    # A module may raise anything on a map or in a dtype that the case does not have.
    except Exception as error:
        raise _NoReference(
            f"at {case.grid} tokens in {case.dtype} it fails ({named(error)})"
        ) from None
    return _against_eager(case, small, output, plugins, with_batch)


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
    case: Case,
    subject: subjects.Subject,
    output: object,
    plugins: subjects.Plugins,
    with_batch: bool,
) -> _Compared:
    """First and last image of the batch against the eager implementation: an index overflow shows
    in the last."""
    device, why_not = subject.device, []
    exact = device.reference()
    targets = {torch.float64: exact, subject.x.dtype: device.target}
    if case.attention and case.grid.tokens > MAX_CHECKED_TOKENS:
        del targets[torch.float64]  # it is quantized: its errors are far above those of float32
    for dtype, target in targets.items():
        name = str(dtype).removeprefix("torch.")
        try:
            reference = _reference(case, subject, dtype, target, plugins, with_batch)
            break
        # A module need not know fp64, and then may raise anything.
        except Exception as error:
            is_full = devices.is_out_of_memory(error)
            reason = _NO_MEMORY if is_full else named(error)
            why_not.append(f"it cannot run in {name} ({reason})")
        device.release()
    else:
        raise _NoReference(", ".join(why_not))
    outputs = [t.detach()[_ends(case)].to(exact) for t in compared(case, output)]
    reference = [tensor.to(exact) for tensor in reference]
    shapes = [[tuple(t.shape) for t in tensors] for tensors in (outputs, reference)]
    if shapes[0] != shapes[1]:
        raise WrongOutput(f"the output's shapes must be {shapes[1]}, got {shapes[0]}")
    errors = correctness.worst_of(outputs, reference)
    fault = correctness.fault_of_value(errors, _allowed(case, subject))
    if fault is not None:
        raise WrongOutput(fault)
    return _Compared(errors, name, ", ".join(why_not))


def _ends(case: Case) -> list[int]:
    return sorted({0, case.batch_size - 1})


def _reference(
    case: Case,
    subject: subjects.Subject,
    dtype: torch.dtype,
    target: torch.device,
    plugins: subjects.Plugins,
    with_batch: bool,
) -> list[Tensor]:
    """What the eager implementation gives for the first and the last image, in a dtype on a
    device."""
    eager = subjects.build_module(case, plugins, subjects.reference_impl(case, plugins))
    eager.load_state_dict(subject.module.state_dict())
    # A training step is checked by its forward pass, in the mode in which it ran.
    eager = wrappers.converted(eager.to(target), dtype).train(subject.module.training)
    x = subject.x.detach().to(target)
    with torch.no_grad():  # on a copy: a module may change its input
        if subject.module.training or with_batch:  # statistics over the batch need all of it
            return [t[_ends(case)] for t in compared(case, eager(x.to(dtype, copy=True)))]
        parts = [compared(case, eager(x[i : i + 1].to(dtype, copy=True))) for i in _ends(case)]
        return [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
