"""What the machines of a fleet must agree in, and whether they do."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata

import vitbench
from vitbench import runtimes, source
from vitbench.cases.plan import Plan

Versions = Mapping[str, str]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python, vitbench and the packages, which are named as they are imported; "" where one is
    not there. Imports none of them."""
    homes = _homes()
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    found["vitbench"] = f"{vitbench.__version__} ({source.digest()})"
    for package in packages:
        named = homes.get(package, [])
        # torch's build, such as +cu130, may differ from the head's, which measures nothing.
        found[package] = metadata.version(named[0]).partition("+")[0] if named else ""
    return found


def of_plan(plan: Plan) -> dict[str, str]:
    """Those that the nodes of a plan must agree in."""
    return versions(packages_of({case.runtime for case in plan.cases}))


def packages_of(names: Iterable[str]) -> list[str]:
    """What runtimes of these names import, and torch."""
    rules = [runtimes.load(name).RULES for name in names]
    return sorted({"torch", *(package for one in rules for package in one.packages)})


@functools.cache
def _homes() -> Mapping[str, list[str]]:
    """What was installed under which name, by what is imported of it."""
    return metadata.packages_distributions()


def disagreement(here: Versions, there: Versions) -> str:
    """The first thing in which a node differs from the head, as `torch 2.13, and here is 2.14`; ""
    where they agree."""
    for name, version in here.items():
        if (other := there.get(name, "")) != version:
            return f"it has {name} {other or 'not at all'}, and here is {version or 'none'}"
    return ""
