"""vitbench measures vision attention on the machine in front of it.

    from vitbench import Sweep, make_plan, measure, read_records

Names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "BackboneSpec": "vitbench.subjects.backbones.BackboneSpec",
    "BadInput": "vitbench.errors.BadInput",
    "Case": "vitbench.cases.case.Case",
    "Plan": "vitbench.cases.plan.Plan",
    "Resolution": "vitbench.cases.case.Resolution",
    "Run": "vitbench.results.journal.Run",
    "Sweep": "vitbench.cases.sweep.Sweep",
    "TimingRule": "vitbench.instruments.timing.TimingRule",
    "draw": "vitbench.render.charts.draw",
    "make_plan": "vitbench.engine.planning.make_plan",
    "measure": "vitbench.engine.runner.measure",
    "read_records": "vitbench.results.frame.read",
    "resume": "vitbench.engine.runner.resume",
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
    from vitbench.cases.case import Case, Resolution
    from vitbench.cases.plan import Plan
    from vitbench.cases.sweep import Sweep
    from vitbench.engine.planning import make_plan
    from vitbench.engine.runner import measure, resume
    from vitbench.errors import BadInput
    from vitbench.instruments.timing import TimingRule
    from vitbench.render.charts import draw
    from vitbench.results.frame import read as read_records
    from vitbench.results.journal import Run
    from vitbench.subjects.backbones import BackboneSpec


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, _, attribute = _HOMES[name].rpartition(".")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'vitbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
