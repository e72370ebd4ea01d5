"""What the output of a user's module depends on beside its input: chance, the batch, its past."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitbench.cases import class_names
from vitbench.cases.case import Case
from vitbench.instruments import correctness
from vitbench.instruments.correctness import WrongOutput, tensors_in
from vitbench.subjects import build as subjects
from vitbench.subjects import plugins as own
from vitbench.subjects import settings
from vitbench.subjects.backbones import LITV2

Behaviour = Literal["random", "depends_on_batch", "keeps_state"]


def is_of_a_user(case: Case, plugins: subjects.Plugins) -> bool:
    """Whether the case runs a module that is not vitbench's own; of those we know what they do."""
    is_ours = bool(case.attention) or case.backbone in LITV2
    return bool(own.files_of(case, plugins) or class_names.classes_of(case)) or not is_ours


class FirstCall:
    """What a module may change in its first call, as it was before."""

    def __init__(self, subject: subjects.Subject) -> None:
        self._subject = subject
        self._x = subject.x.detach().clone()
        self._buffers = {
            name: value.clone()
            for name, value in subject.module.named_buffers()
            if not nn.parameter.is_lazy(value)
        }

    def keeps_state(self) -> bool:
        """Whether a buffer is another now; in training it may be.

        Raises WrongOutput where the input is: the next call would compute something else.
        """
        if not _equal(self._x, self._subject.x.detach()):
            raise WrongOutput(
                "it changes its input in place, so that no two calls compute the same: "
                "begin forward with x = x.clone(), or leave out the in-place operations"
            )
        if self._subject.module.training:
            return False
        now = dict(self._subject.module.named_buffers())
        return any(
            name in now and not _equal(value, now[name]) for name, value in self._buffers.items()
        )


def _equal(before: Tensor, now: Tensor) -> bool:
    """NaN equals NaN."""
    if (before.shape, before.layout) != (now.shape, now.layout):
        return False
    if before.layout not in (torch.strided, torch.jagged):  # sparse ones are not compared by torch
        before, now = before.to_dense(), now.to_dense()
    both_nan = (before != before) & (now != now)
    return bool(((before == now) | both_nan).all())


def why_outputs_differ(case: Case, subject: subjects.Subject) -> Behaviour | None:
    """Why a module's output is not that of another run of it; None where it is, so that it is
    wrong. Runs the module a few times.
    """
    first, again = _run(case, subject, subject.x), _run(case, subject, subject.x)
    if _differ(subject, first, again):
        return "random"
    settings.seed(subjects.seed_of(case) + 1)
    other = _run(case, subject, subject.x, seeded=False)
    if _differ(subject, first, other):
        return "random"
    if case.batch_size > 1 and not subject.module.training:
        last = [tensor[-1:] for tensor in first]
        if _differ(subject, last, _run(case, subject, subject.x[-1:])):
            return "depends_on_batch"
    return None


def _run(case: Case, subject: subjects.Subject, x: Tensor, *, seeded: bool = True) -> list[Tensor]:
    """The tensors that are compared of one forward pass on a copy of the input, where there is
    float64 to compare them in."""
    if seeded:
        settings.seed(subjects.seed_of(case))
    with torch.no_grad():
        output: Any = subject.runnable(x.detach().clone())
    exact = subject.device.reference()
    return [tensor.detach().to(exact, copy=True) for tensor in compared(case, output)]


def _differ(subject: subjects.Subject, some: list[Tensor], others: list[Tensor]) -> bool:
    """Beyond rounding, or in shape."""
    if [tensor.shape for tensor in some] != [tensor.shape for tensor in others]:
        return True
    allowed = correctness.budget(subject.x.dtype, tf32=subject.device.uses_tf32(), layers=64)
    errors = correctness.worst_of(some, others)
    return correctness.fault_of_value(errors, allowed) is not None


def compared(case: Case, output: object) -> list[Tensor]:
    """The tensors of an output that are checked: of a layer the map alone, which comes first."""
    tensors = tensors_in(output)
    return tensors[:1] if case.attention else tensors
