"""What a worker answers without measuring. A user's plugins are imported there, never here.

A plugin may print, end the process, hang, or change what holds for all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitbench import devices
from vitbench.analysis.spectrum import Spectrum
from vitbench.cases.calibration import Calibration
from vitbench.cases.case import Case
from vitbench.cases.class_names import classes_of, is_class, name_in
from vitbench.cases.plan import Plan
from vitbench.cases.sweep import Question
from vitbench.engine import messages
from vitbench.engine.pool import START_TIMEOUT_S, CaseFailed, Pool, WorkerSpec
from vitbench.errors import BadInput
from vitbench.subjects import describe as ours

_SLOT = "inquiry"


def describe(question: Question, plugins: Mapping[str, Path]) -> Mapping[str, Any]:
    """`subjects.describe.describe`, of a plugin or a class in a worker. Raises BadInput, and for
    what is wrong in the question before torch is imported.
    """
    question.check(plugins)
    name = name_in(question.name)
    if name not in plugins and not is_class(name):
        return ours.describe(question, {})
    with _pool({name: plugins[name]} if name in plugins else {}) as pool:
        request = messages.Describe(question=question)
        try:
            return pool.ask(_SLOT, request, messages.Described).facts
        except CaseFailed as error:
            raise BadInput(f"{name} cannot be described: {error}") from None


def reasons_against(cases: Iterable[Case], plugins: Mapping[str, Path]) -> Mapping[Case, str]:
    """`subjects.describe.reasons_against`, in a worker where there are plugins or classes. Raises
    BrokenPlugin, BadInput.
    """
    by_id = {case.id: case for case in cases}
    if not plugins and not any(classes_of(case) for case in by_id.values()):
        return ours.reasons_against(by_id.values(), {})
    with _pool(plugins) as pool:
        pool.check_classes(_SLOT, by_id.values())
        request = messages.FindReasons(cases=tuple(by_id.values()))
        try:
            reasons = pool.ask(_SLOT, request, messages.Reasons).reasons
        except CaseFailed as error:
            raise BadInput(f"the plugins cannot be asked what they support: {error}") from None
    return {by_id[case_id]: reason for case_id, reason in reasons.items()}


def spectra(
    plan: Plan, images: Calibration, layers: Sequence[str]
) -> Iterator[tuple[Case, tuple[Spectrum, ...]]]:
    """Each case of a plan, with `subjects.spectra.read` of it, in a worker. Raises BadInput,
    BrokenPlugin.
    """
    setup = messages.SetUp.of(plan).model_copy(update={"calibration": images})
    with Pool({_SLOT: WorkerSpec(lambda: setup)}, plan.timeout_s) as pool:
        pool.check_plugins(_SLOT, plan.plugins)
        pool.check_classes(_SLOT, plan.cases)
        for case in plan.cases:
            request = messages.ReadSpectra(case=case, layers=tuple(layers))
            try:
                yield case, pool.ask(_SLOT, request, messages.Spectra).spectra
            except CaseFailed as error:
                raise BadInput(f"{case.subject} has no spectrum: {error}") from None


def _pool(plugins: Mapping[str, Path]) -> Pool[str]:
    """A worker on the CPU that has imported the plugins. Raises BrokenPlugin."""
    setup = messages.SetUp(device=devices.host(), plugins=plugins)
    pool = Pool({_SLOT: WorkerSpec(lambda: setup)}, START_TIMEOUT_S)
    try:
        pool.check_plugins(_SLOT, plugins)
    except BadInput:
        pool.end(_SLOT)
        raise
    return pool
