"""What there is to say of one mechanism: its paper, its cost, and its counts at a size."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attentions
from attentions import AttentionSpec, BrokenAttention, Grid
from vitbench import devices, runtimes
from vitbench.cases import class_names
from vitbench.cases.case import Case
from vitbench.cases.sweep import Question
from vitbench.errors import BadInput
from vitbench.subjects import plugins as own
from vitbench.subjects.classes import attention_of

_PAPER = ("title", "venue", "year", "link", "code")


def describe(question: Question, plugins: Mapping[str, Path]) -> dict[str, Any]:
    """Everything, as JSON can hold it, of a question that is checked. `counts` is None where the
    size is unsupported, and then `unsupported` says why. Imports torch. Raises BrokenAttention,
    BadInput.
    """
    resolution, stride = question.resolution, question.stride
    name, written = class_names.parse(question.name)
    sizes = {"dim": question.dim, "num_heads": question.num_heads}
    sizes |= {key: int(written.pop(key)) for key in sizes if key in written}
    dim, num_heads = sizes["dim"], sizes["num_heads"]
    spec = attention_of(name, plugins)
    grid = Grid(resolution.height // stride, resolution.width // stride)
    chosen = spec.settings_at(stride) | written | dict(question.params)
    outline = class_names.outline_of(name, {**attentions.files(), **plugins})
    defaults = {key: value for key, value in (outline.keywords or {}).items() if value is not None}
    try:
        with own.importable_beside(name, plugins):
            reason = spec.reason_against(dim, num_heads, grid, **chosen)
            counts, layout = None, spec.layout
            if reason is None:
                counts, layout = _counts(spec, dim, num_heads, grid, chosen)
    except BrokenAttention:
        raise
    # A plugin may raise anything; the user is told what, and whose it is.
    except (Exception, SystemExit) as error:
        raise BadInput(f"{name} cannot be built: {type(error).__name__}: {error}") from None
    return {
        "name": name,
        "summary": outline.summary,
        "paper": spec.paper and {name: getattr(spec.paper, name) for name in _PAPER},
        "layout": layout,
        "family": outline.words.get("family", ""),
        "equation": spec.equation,
        "cost": spec.cost,
        # Of a class nobody has said what it does with a size that does not fit.
        "size_rule": "" if class_names.is_class(name) else spec.size_rule,
        "impls": list(spec.impls),
        "kernels": spec.kernels,
        "parameters": json.loads(json.dumps(defaults)),
        "settings": {str(stride): dict(given) for stride, given in spec.settings.items()},
        "traps": list(spec.traps),
        "at": {
            "resolution": str(resolution),
            "stride": stride,
            "grid": [grid.height, grid.width],
            "dim": dim,
            "num_heads": num_heads,
            "params": chosen,
        },
        "unsupported": reason,
        "counts": counts,
    }


def reasons_against(cases: Iterable[Case], plugins: Mapping[str, Path]) -> dict[Case, str]:
    """Why cases cannot be measured, as far as runtimes, devices and mechanisms say without being
    built: those that are unsupported, and those whose mechanism cannot be asked. Whole models
    cannot. Imports torch and the plugins.
    """
    reasons = {}
    for case in cases:
        try:
            reason = runtimes.refusal(case.runtime, case.device, case.dtype, case.mode)
            reason = reason or devices.connect(case.device).refuses(case.tensor_dtype)
            if reason is None and case.attention:
                with own.importable(case, plugins):
                    reason = attention_of(case.attention, plugins).reason_against(
                        case.dim, case.num_heads, case.grid, **dict(case.params)
                    )
        except (Exception, SystemExit) as error:  # a plugin may raise anything
            reason = f"{type(error).__name__}: {error}"
        if reason is not None:
            reasons[case] = reason
    return reasons


def _counts(
    spec: AttentionSpec, dim: int, num_heads: int, grid: Grid, params: Mapping[str, Any]
) -> tuple[dict[str, Any], attentions.Layout]:
    """Parameters, MACs by the closed form, and the grid that is computed where there is padding;
    and the layout of the module."""
    impl = "eager" if "eager" in spec.impls else spec.impls[0]
    module = spec.build(dim, num_heads, grid, impl=impl, **params)
    computed = grid if spec.computed is None else spec.computed(grid, **params)
    counts = {
        "params": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "macs": None if spec.macs is None else spec.macs(dim, num_heads, grid, **params),
        "computed_grid": [computed.height, computed.width],
    }
    return counts, attentions.layout_of(module)
