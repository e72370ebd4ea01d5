"""Settings drawn from a space that is too large to try, by optuna's sampler: where it was good."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attentions
from vitbench.analysis.halving import Estimates
from vitbench.analysis.tuning import contests, rounds_of
from vitbench.cases.case import Case
from vitbench.cases.plan import Plan
from vitbench.cases.scalars import Scalar
from vitbench.cases.space import Product, Space, case_with
from vitbench.cases.tuning import Tuning
from vitbench.engine.inquiry import reasons_against
from vitbench.errors import BadInput
from vitbench.results.journal import Draw, Run

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

# Tries for each setting that is wanted: the sampler may repeat itself.
_TRIES = 20


def missing() -> str | None:
    """What to install, where it is not there."""
    if importlib.util.find_spec("optuna") is not None:
        return None
    return "optuna is not installed: pip install 'vitbench[tune]'"


def draw(run: Run, round_index: int) -> list[Draw]:
    """The settings that join a run before a round, each as a case of every contest; none after the
    rounds that draw, nor where the space has no more. Raises BadInput without optuna."""
    tuning = run.plan.tuning
    if tuning is None or round_index >= tuning.draws:
        return []
    if (reason := missing()) is not None:
        raise BadInput(f"the run draws settings, but {reason}")
    wanted = tuning.drawn * (round_index + 1) // tuning.draws - len(run.drawn)
    known = {case.id for case in run.plan.cases}
    study, choices = _study(run, tuning, round_index), _choices(tuning.space)
    found: list[Draw] = []
    for _ in range(_TRIES):
        # All that are missing at once: what can be built may take a process to find out.
        tried: list[tuple[dict[str, Scalar], list[Case]]] = []
        for _ in range(wanted - len(found)):
            setting = _setting(study.ask(choices).params, tuning.space)
            cases = [c for c in cases_with(run.plan, tuning, setting) if c.id not in known]
            known |= {case.id for case in cases}
            tried.append((setting, cases))
        new = [case for _, cases in tried for case in cases]
        reasons = reasons_against(new, run.plan.plugins) if new else {}
        for setting, cases in tried:
            if able := tuple(case for case in cases if case not in reasons):
                found.append(Draw(round_index, setting, able))
    return found


def cases_with(plan: Plan, tuning: Tuning, setting: Mapping[str, Scalar]) -> list[Case]:
    """A setting in every contest of a plan."""
    mechanisms: dict[str, Path] = {**attentions.files(), **plan.plugins}
    defaults = [case for case in plan.cases if case.id in tuning.defaults]
    return [case_with(case, setting, mechanisms) for case in defaults]


def _study(run: Run, tuning: Tuning, seed: int) -> Study:
    """What is known so far, as the sampler reads it. It follows from the journal alone, so that a
    run that is resumed draws what one that was not would have drawn."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=run.plan.seed + seed)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    behind, choices = _behind_the_default(run, tuning), _choices(tuning.space)
    for each in run.drawn:
        values = [behind[case.id] for case in each.cases if case.id in behind]
        if values:
            places = _places(each.setting, tuning.space)
            trial = optuna.trial.create_trial(
                params=places,
                distributions={name: choices[name] for name in places},
                values=[sum(value[i] for value in values) / len(values) for i in (0, 1)],
            )
            study.add_trial(trial)
    return study


def _behind_the_default(run: Run, tuning: Tuning) -> dict[str, tuple[float, float]]:
    """Of each case the logarithm of its latency, and MiB of its peak memory, beside those of the
    authors' setting in its contest."""
    medians, found = run.medians(), {}
    for rows in contests(run.records()):
        timed = [row for row in rows if medians.get(str(row["case"]))]
        default = next((row for row in timed if row["case"] in tuning.defaults), None)
        if default is None:
            continue
        values = Estimates.of(rounds_of(timed, medians)).values
        for row in timed:
            memory = float(row["peak_memory_bytes"] or 0) - float(default["peak_memory_bytes"] or 0)
            latency = values[str(row["case"])] - values[str(default["case"])]
            found[str(row["case"])] = (latency, memory / 2**20)
    return found


def _choices(space: Space) -> dict[str, BaseDistribution]:
    """A product, and a place among the values of each hyper-parameter in each product."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {
        _PRODUCT: CategoricalDistribution(range(len(space.products)))
    }
    for index, product in enumerate(space.products):
        for name, values in product.items():
            # Numbers that rise are neighbours of each other.
            found[_key(index, name)] = (
                IntDistribution(0, len(values) - 1)
                if _is_ordered(values)
                else CategoricalDistribution(range(len(values)))
            )
    return found


_PRODUCT = "product"


def _key(index: int, name: str) -> str:
    return f"{index} {name}"


def _setting(places: Mapping[str, Any], space: Space) -> dict[str, Scalar]:
    """What was chosen, as values of hyper-parameters."""
    index = places[_PRODUCT]
    product = space.products[index]
    return {name: values[places[_key(index, name)]] for name, values in product.items()}


def _places(setting: Mapping[str, Scalar], space: Space) -> dict[str, int]:
    """The inverse of `_setting`."""
    index = next(i for i, product in enumerate(space.products) if _holds(product, setting))
    product = space.products[index]
    own = {_key(index, name): product[name].index(value) for name, value in setting.items()}
    return {_PRODUCT: index, **own}


def _is_ordered(values: Sequence[Scalar]) -> bool:
    numbers = [value for value in values if isinstance(value, int | float)]
    is_numeric = len(numbers) == len(values) and not any(isinstance(v, bool) for v in values)
    return is_numeric and numbers == sorted(numbers)


def _holds(product: Product, setting: Mapping[str, Scalar]) -> bool:
    return product.keys() == setting.keys() and all(setting[n] in product[n] for n in product)
