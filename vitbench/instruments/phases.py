"""What a call's time goes to: projections, attention, moving data. Operator by operator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitbench.instruments import Column, Workload

ORDER = 5
PHASES = (
    "projections",
    "convolutions",
    "partition",
    "QK",
    "softmax",
    "AV",
    "kernel",
    "output",
    "elementwise",
)
COLUMNS = (
    Column(
        "phases",
        "",
        "shares of a call's time by what its operators do, each timed by itself: products with "
        "weights before attention (`projections`) and after it (`output`), `convolutions`, moving "
        "data (`partition`), the first and the second product of attention (`QK`, `AV`), "
        "`softmax`, all three in one `kernel`, and the rest (`elementwise`); empty for training "
        "steps and for calls that are compiled or replayed",
        "text",
    ),
)


def read(workload: Workload) -> Mapping[str, Any]:
    """Nothing where the runtime dispatches no operators."""
    if not workload.is_dispatched:
        return {"phases": ""}
    from vitbench.instruments import _phases

    spent_s = _phases.seconds(workload)
    total_s = sum(spent_s.values())
    shares = {name: spent_s[name] / total_s for name in PHASES if spent_s.get(name)}
    return {"phases": " ".join(f"{name}:{share:.3f}" for name, share in shares.items())}
