"""vitbench measures vision attention on the machine it runs on.

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

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:  # `as` says that the name is public
    from vitbench.cases.case import Case as Case
    from vitbench.cases.case import Resolution as Resolution
    from vitbench.cases.plan import Plan as Plan
    from vitbench.cases.sweep import Sweep as Sweep
    from vitbench.engine.planning import make_plan as make_plan
    from vitbench.engine.runner import measure as measure
    from vitbench.engine.runner import resume as resume
    from vitbench.errors import BadInput as BadInput
    from vitbench.instruments.timing import TimingRule as TimingRule
    from vitbench.render.charts import draw as draw
    from vitbench.results import frame
    from vitbench.results.journal import Run as Run
    from vitbench.subjects.backbones import BackboneSpec as BackboneSpec

    read_records = frame.read


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        module, _, attribute = _HOMES[name].rpartition(".")
        return getattr(import_module(module), attribute)
    raise AttributeError(f"module 'vitbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
