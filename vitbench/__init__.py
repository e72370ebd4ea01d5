"""vitbench measures vision attention on the machine in front of it.

    from vitbench import Sweep, make_plan, measure, read_records

Names are loaded on first use, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "BadInput": "vitbench.errors",
    "Case": "vitbench.case",
    "Plan": "vitbench.plan",
    "Resolution": "vitbench.case",
    "Run": "vitbench.store",
    "Sweep": "vitbench.case",
    "TimingRule": "vitbench.instruments.timing",
    "draw": "vitbench.session",
    "make_plan": "vitbench.session",
    "measure": "vitbench.session",
    "read_records": "vitbench.session",
    "resume": "vitbench.session",
}

__all__ = [
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
    from vitbench.case import Case, Resolution, Sweep
    from vitbench.errors import BadInput
    from vitbench.instruments.timing import TimingRule
    from vitbench.plan import Plan
    from vitbench.session import draw, make_plan, measure, read_records, resume
    from vitbench.store import Run


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vitbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
