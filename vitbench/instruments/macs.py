"""MACs: by the subject's own formula where it has one, and counted on its eager module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from vitbench.errors import named
from vitbench.instruments import NOTES, Column, Workload

if TYPE_CHECKING:
    from torch import nn

Result = TypeVar("Result")

ORDER = 1
COLUMNS = (
    Column("macs", "MACs", "multiply-accumulates of one image", "int", exact=True),
    Column("flops", "FLOPs", "2 x macs", "int", exact=True),
    Column("macs_source", "", "`closed form` of the mechanism, or `fvcore`", "text", exact=True),
    Column(
        "macs_head",
        "MACs",
        "of `macs`, what a detection or segmentation head takes, its feature pyramid included",
        "int",
        exact=True,
    ),
    Column(
        "macs_formula",
        "MACs",
        "of one image by the formula that a backbone's authors publish by, where we have it",
        "int",
        exact=True,
    ),
    Column(
        "macs_fvcore", "MACs", "what fvcore counts; the same, or the trust falls", "int", exact=True
    ),
    Column(
        "uncounted_ops",
        "",
        "operators that count nothing by convention, with how often",
        "text",
        exact=True,
    ),
    Column("params", "", "trainable parameters", "int", exact=True),
)


def read(workload: Workload) -> Mapping[str, Any]:
    """Of one forward pass of one image; a training step is three of them (results.record).

    A formula or a count that fails is a note, and the rest is read all the same.
    """
    from vitbench.instruments import _fvcore

    counts, notes = workload.counts, []

    def known(name: str, ask: Callable[[], Result]) -> Result | None:
        try:
            return ask()
        # Formulas and modules are anyone's, and may raise anything.
        except Exception as error:
            notes.append(f"{name}: {named(error)}")
            return None

    def count() -> tuple[_fvcore.Macs, int | None]:
        counted = {name: _fvcore.count(*part) for name, part in counts.parts().items()}
        parts = list(counted.values())
        total = parts[0] if len(parts) == 1 else _fvcore.joined(parts)
        return total, counted["head"].total if "head" in counted else None

    closed_form = known("closed form", counts.closed_form)
    formula = known("published formula", counts.formula)
    total, head = known("macs", count) or (None, None)
    counted = None if total is None else total.total
    if closed_form is not None and counted is not None and closed_form != counted:
        notes.append(f"macs: the closed form gives {closed_form}, fvcore counts {counted}")
    macs = counted if closed_form is None else closed_form
    source = "fvcore" if closed_form is None else "closed form"
    uncounted = {} if total is None else total.uncounted
    return {
        "macs": macs,
        "macs_source": "" if macs is None else source,
        "macs_head": head,
        "macs_formula": formula,
        "macs_fvcore": counted,
        "uncounted_ops": " ".join(f"{name}:{n}" for name, n in uncounted.items()),
        "params": params(workload.module),
        NOTES: "; ".join(notes),
    }


def params(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
