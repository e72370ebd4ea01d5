"""MACs: by the subject's own formula where it has one, and counted on its eager module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vitbench.instruments import Column, Workload

if TYPE_CHECKING:
    from torch import nn

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
    """Of one forward pass of one image; a training step is three of them (results.record)."""
    from vitbench.instruments import _fvcore

    counts = workload.counts()
    counted = {name: _fvcore.count(*part) for name, part in counts.parts.items()}
    parts = list(counted.values())
    total = parts[0] if len(parts) == 1 else _fvcore.joined(parts)
    formula = counts.closed_form
    return {
        "macs": total.total if formula is None else formula,
        "macs_source": "fvcore" if formula is None else "closed form",
        "macs_head": counted["head"].total if "head" in counted else None,
        "macs_formula": counts.formula,
        "macs_fvcore": total.total,
        "uncounted_ops": " ".join(f"{name}:{n}" for name, n in total.uncounted.items()),
        "params": params(workload.module),
    }


def params(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
