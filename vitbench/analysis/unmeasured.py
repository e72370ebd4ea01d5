"""What could answer a question too, and was not measured; what measuring it would cost. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import attentions
from vitbench import runtimes
from vitbench.cases import plan as plans
from vitbench.cases.case import Case, Resolution
from vitbench.cases.row import options_of, row_of
from vitbench.cases.sweep import Sweep
from vitbench.errors import BadInput
from vitbench.results.record import Record, subject_of

_EFFORT = "default"


@dataclass(frozen=True, slots=True)
class Unmeasured:
    """Values of an axis that no row has, at the setting of the rows.

    axis     "attention" or "runtime"
    seconds  the least and the most that measuring them takes, as the default effort does
    command  of `vitbench run`, with which it does
    """

    axis: str
    names: tuple[str, ...]
    seconds: tuple[float, float]
    command: str


def unmeasured(rows: Sequence[Record], pick: Record) -> list[Unmeasured]:
    """Mechanisms of ours beside a layer, and runtimes that are installed here and run the case."""
    found = []
    if pick["attention"]:
        seen = {subject_of(row) for row in rows}
        found.append(_of("attention", [n for n in attentions.names() if n not in seen], pick))
    seen = {str(row["runtime"]) for row in rows}
    able = [name for name in runtimes.names() if name not in seen and _runs(name, pick)]
    found.append(_of("runtime", able, pick))
    return [one for one in found if one is not None]


def _runs(runtime: str, pick: Record) -> bool:
    """Whether it is installed, and nothing is known that speaks against the case."""
    case = str(pick["device"]), str(pick["dtype"]), str(pick["mode"])
    is_here = runtimes.missing(runtime, str(pick["dtype"])) is None
    return is_here and runtimes.load(runtime).refuses(*case) is None


def _of(axis: str, names: Sequence[str], pick: Record) -> Unmeasured | None:
    cases = _cases(axis, names, pick)
    if not cases:
        return None
    device = str(pick["device"])
    rule, rounds = plans.rule_of(_EFFORT, device, {}), plans.rounds_of(_EFFORT, device)
    fixed = plans.fixed_s(cases, rounds)
    bounds = [plans.case_s(case, rule) for case in cases]
    least, most = (fixed + rounds * sum(ends) for ends in zip(*bounds, strict=True))
    listed = ",".join(names)
    return Unmeasured(axis, tuple(names), (least, most), _command(cases[0], axis, listed))


def _cases(axis: str, names: Sequence[str], pick: Record) -> list[Case]:
    """The pick's case with each of the names in place of its own; none where it is not ours."""
    if not names:
        return []
    values = {
        name: pick[name]
        for name in ("stride", "dim", "num_heads", "batch_size", "dtype", "impl", "runtime")
        if pick[name] is not None
    }
    size = Resolution(int(pick["image_height"] or 0), int(pick["image_width"] or 0))
    kind = "attention" if pick["attention"] else "backbone"
    fields: dict[str, Any] = {
        **values,
        kind: subject_of(pick),
        "resolution": size,
        "mode": pick["mode"],
    }
    fields[axis] = tuple(names)
    try:
        return Sweep(device=str(pick["device"]), **fields).expand()
    except BadInput:  # a module of the user's own, whose file nobody knows
        return []


def _command(case: Case, axis: str, listed: str) -> str:
    """`vitbench run` with the options of the case, without its hyper-parameters: others differ."""
    row = row_of(case) | {axis: listed, "settings": ""}
    return f"vitbench run {options_of(row)}"
