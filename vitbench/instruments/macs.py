"""MACs: by the subject's own formula where it has one, and counted on its eager module."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from vitbench.errors import named
from vitbench.instruments import NOTES, Column, Counts, Workload

if TYPE_CHECKING:
    from torch import nn

Result = TypeVar("Result")

ORDER = 1
COLUMNS = (
    Column("macs", "MACs", "multiply-accumulates of one image", "int", exact=True),
    Column("flops", "FLOPs", "2 x macs", "int", exact=True),
    Column("macs_source", "", "`closed form` of the mechanism, or `counted`", "text", exact=True),
    Column(
        "macs_head",
        "MACs",
        "of `macs`, what a detection or segmentation head takes, its feature pyramid included",
        "int",
        exact=True,
    ),
    Column(
        "macs_overlapping",
        "MACs",
        "of `macs`, convolutions whose kernels overlap: methods such as Winograd's take fewer "
        "products, so the ceiling does not hold for them",
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
        "macs_is_lower_bound",
        "",
        "`macs` was counted, and something in the module could not be: `notes` says what",
        "bool",
        exact=True,
    ),
    Column(
        "macs_counted",
        "MACs",
        "what the operators of the eager module count; the closed form's, or the trust falls",
        "int",
        exact=True,
    ),
    Column(
        "macs_fvcore",
        "MACs",
        "what fvcore counts of a module without closed form, fused attention and Fourier "
        "transforms as nothing: for comparison with published tables",
        "int",
        exact=True,
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
    from vitbench.instruments import _macs

    counts, notes = workload.counts, []

    def known(name: str, ask: Callable[[], Result]) -> Result | None:
        try:
            return ask()
        # Formulas and modules are anyone's, and may raise anything.
        except Exception as error:
            notes.append(f"{name}: {named(error)}")
            return None

    def count() -> tuple[_macs.Macs, int | None]:
        parts = {name: _macs.count(*part) for name, part in counts.parts().items()}
        return _macs.joined(parts.values()), parts["head"].total if "head" in parts else None

    closed_form = known("closed form", counts.closed_form)
    formula = known("published formula", counts.formula)
    found, head = known("macs", count) or (None, None)
    counted = None if found is None else found.total
    unknown = () if found is None else found.unknown
    if closed_form is None:
        macs, source = counted, "" if counted is None else "counted"
        if unknown:
            notes.append(f"macs: a lower bound, without {', '.join(unknown)}")
        by_fvcore = known("fvcore", functools.partial(_by_fvcore, counts))
    else:
        macs, source, by_fvcore = closed_form, "closed form", None
        if unknown and counted is not None and counted <= closed_form:
            counted = None  # too little is known of it to judge the closed form by
        if counted is not None and counted != closed_form:
            notes.append(f"macs: the closed form gives {closed_form}, counted are {counted}")
    return {
        "macs": macs,
        "macs_source": source,
        "macs_is_lower_bound": bool(unknown) and closed_form is None,
        "macs_head": head,
        "macs_overlapping": None if found is None else found.overlapping,
        "macs_formula": formula,
        "macs_counted": counted,
        "macs_fvcore": by_fvcore,
        "uncounted_ops": "" if found is None else _listed(found.uncounted),
        "params": params(workload.module),
        NOTES: "; ".join(notes),
    }


def _by_fvcore(counts: Counts) -> int:
    from vitbench.instruments import _fvcore

    return sum(_fvcore.count(*part) for part in counts.parts().values())


def _listed(operators: Mapping[str, int]) -> str:
    return " ".join(f"{name}:{n}" for name, n in operators.items())


def params(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
