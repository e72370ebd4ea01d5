"""Which operators a call dispatches, and the attention kernels among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitbench.instruments import Column, Workload

ORDER = 4
COLUMNS = (
    Column(
        "operator_calls",
        "calls",
        "operators that one call dispatches, views included; empty for a call that is compiled or "
        "replayed from a graph",
        "int",
    ),
    Column(
        "sdpa_kernels",
        "",
        "kernels that scaled_dot_product_attention ran on, with how often; `math` is not fused",
        "text",
    ),
)


def read(workload: Workload) -> Mapping[str, Any]:
    """Nothing where the runtime dispatches no operators."""
    if not workload.is_dispatched:
        return {"sdpa_kernels": ""}
    from vitbench.instruments import _dispatch

    traced = _dispatch.trace(workload.call)
    kernels = " ".join(f"{name}:{n}" for name, n in traced.kernels.items())
    return {"operator_calls": traced.calls, "sdpa_kernels": kernels}
