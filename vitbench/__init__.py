"""vitbench measures vision attention on the machine in front of it.

    from vitbench import Sweep, make_plan, measure, read_records

Names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "BackboneSpec": "vitbench.subjects.backbones",
    "BadInput": "vitbench.errors",
    "Case": "vitbench.cases.case",
    "Plan": "vitbench.cases.plan",
    "Resolution": "vitbench.cases.case",
    "Run": "vitbench.results.journal",
    "Sweep": "vitbench.cases.case",
    "TimingRule": "vitbench.instruments.timing",
    "draw": "vitbench.engine.session",
    "make_plan": "vitbench.engine.session",
    "measure": "vitbench.engine.session",
    "read_records": "vitbench.engine.session",
    "resume": "vitbench.engine.session",
}

__all__ = [
    "BackboneSpec",
    "BadInput",
    "Case",
    "Plan",
    "Resolution",
    "Run",
    "Sweep",
    "TimingRule",
    "__version__",
    "draw",
    "make_plan",
    "measure",
    "read_records",
    "resume",
]

if TYPE_CHECKING:
    from vitbench.cases.case import Case, Resolution, Sweep
    from vitbench.cases.plan import Plan
    from vitbench.engine.session import draw, make_plan, measure, read_records, resume
    from vitbench.errors import BadInput
    from vitbench.instruments.timing import TimingRule
    from vitbench.results.journal import Run
    from vitbench.subjects.backbones import BackboneSpec


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
