"""From a subject and a space to a plan that looks for the best setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attentions
from vitbench.cases import backbone_names as models
from vitbench.cases import class_names
from vitbench.cases.case import Case
from vitbench.cases.limits import Limits
from vitbench.cases.plan import Plan
from vitbench.cases.space import Product, Space, case_with
from vitbench.cases.sweep import Sweep
from vitbench.cases.tuning import Tuning
from vitbench.engine import drawing, planning
from vitbench.engine.inquiry import reasons_against
from vitbench.errors import BadInput, nearest
from vitbench.subjects.backbones import LITV2, LITV2_SPACE

# A larger space is drawn from.
MOST_TRIED = 128
# Rounds after each of which settings are given up, and in the end those that compare what is left.
_NARROWING, LAST_ROUNDS = 5, 6
# Rounds that begin by drawing settings from a large space.
_DRAWS = 4


def make_plan(
    subject: str,
    kind: str,
    space: Product,
    *,
    axes: Mapping[str, Any],
    limits: Limits,
    trials: int | None = None,
    last_rounds: int = LAST_ROUNDS,
    plugins: tuple[Path, ...] = (),
    on_note: Callable[[str], object] = lambda note: None,
    **settings: Any,
) -> Plan:
    """A plan that looks for the best setting of a subject, in every contest that the axes make.

    kind         "attention" or "backbone"
    space        values by hyper-parameter; empty: those that come with the subject
    trials       settings that are drawn from a larger space; None: MOST_TRIED
    last_rounds  that compare what is left in the end
    settings     of `planning.make_plan`

    Raises BadInput, before anything is measured or written.
    """
    files = planning.plugin_files(plugins)
    mechanisms = {**attentions.files(), **files}
    name = models.parse(subject)[0]
    given = Space((space,)) if space else usual_space(name, kind, mechanisms)
    for product in given.products:
        if kind == "backbone":
            _check_backbone(name, product, mechanisms)
        else:
            _check_layer(subject, product, axes, files)
    drawn = _drawn(given, trials)
    if last_rounds < 3:
        raise BadInput(f"--rounds is at least 3, so that there is an interval, got {last_rounds}")
    own = planning.make_plan(
        axes={**axes, kind: (subject,)}, plugins=plugins, on_note=on_note, rounds=1, **settings
    )
    tuning = Tuning(
        space=given,
        limits=limits,
        defaults=tuple(case.id for case in own.cases),
        drawn=drawn,
        draws=_DRAWS if drawn else 0,
        narrowing=_NARROWING + (_DRAWS - 1 if drawn else 0),
    )
    cases = own.cases if drawn else tuple(_all(own, given, mechanisms, on_note))
    return dataclasses.replace(
        own,
        title=f"{subject}: {', '.join(given.names)}",
        suite="tune",
        cases=cases,
        rounds=tuning.narrowing + last_rounds,
        tuning=tuning,
    )


def usual_space(name: str, kind: str, mechanisms: Mapping[str, Path]) -> Space:
    """What comes with a subject. Raises BadInput where nothing does."""
    if kind == "backbone":
        if name in LITV2:
            return Space(LITV2_SPACE)
        raise BadInput(
            f"{name} has no space of its own: give --space NAME=VALUES with its arguments"
        )
    outline = class_names.outline_of(name, mechanisms)
    if outline.space:
        return Space(outline.space)
    known = ", ".join(outline.keywords or ()) or "none"
    raise BadInput(
        f"{name} has no space of its own: give --space NAME=VALUES; its parameters: {known}"
    )


def _all(
    plan: Plan, space: Space, mechanisms: Mapping[str, Path], on_note: Callable[[str], object]
) -> Iterator[Case]:
    """The authors' settings first, then all others that can be built, each once."""
    found = dict.fromkeys(plan.cases)
    for case in plan.cases:
        found |= dict.fromkeys(case_with(case, one, mechanisms) for one in space.settings())
    reasons = reasons_against(found, plan.plugins)
    left_out = [case for case in found if case in reasons]
    able = [case for case in found if case not in reasons]
    if left_out and len(able) <= len(plan.cases):
        raise BadInput(f"no setting of the space can be built: {reasons[left_out[0]]}")
    if left_out:
        more = f", and {len(left_out) - 1} more" if len(left_out) > 1 else ""
        on_note(f"left out: {left_out[0].settings}: {reasons[left_out[0]]}{more}")
    return iter(able)


def _drawn(space: Space, trials: int | None) -> int:
    """How many settings are drawn; 0: all are tried. Raises BadInput."""
    if trials is not None and trials < 1:
        raise BadInput(f"--trials is at least 1, got {trials}")
    drawn = MOST_TRIED if trials is None else trials
    if drawn >= space.size:
        return 0
    if (reason := drawing.missing()) is not None:
        raise BadInput(
            f"of the {space.size} settings of the space {drawn} would be drawn, but {reason}"
        )
    return drawn


def _check_layer(
    subject: str, product: Product, axes: Mapping[str, Any], plugins: Mapping[str, Path]
) -> None:
    """Raises BadInput for a hyper-parameter that the mechanism has not, and for values that it
    cannot have."""
    sizes = {name: axes[name] for name in ("dim", "num_heads", "stride") if name in axes}
    name = class_names.name_in(subject)
    Sweep(attention=(subject,), params={name: product}, plugins=plugins, **sizes).check()


def _check_backbone(name: str, product: Product, mechanisms: Mapping[str, Path]) -> None:
    """Each value beside the mechanisms that the product has; one of them must know it."""
    if name not in LITV2:
        return
    for key, values in product.items():
        prefix = models.STAGE_4 if key.startswith(models.STAGE_4) else models.STAGE_3
        chosen = product.get(f"{prefix}attention", ("hilo",))
        known: dict[str, Any] = {}
        for mechanism in chosen:
            known |= models.settings(name, {f"{prefix}attention": mechanism}, mechanisms)
        if key not in known:
            raise BadInput(f"{name} has no parameter {key!r}; {nearest(key, known)}")
        if key != f"{prefix}attention":
            able = [
                mechanism
                for mechanism in chosen
                if key in models.settings(name, {f"{prefix}attention": mechanism}, mechanisms)
            ]
            for value in values:
                models.settings(name, {f"{prefix}attention": able[0], key: value}, mechanisms)
