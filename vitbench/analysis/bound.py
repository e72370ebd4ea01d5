"""What bounds each case: the device's arithmetic, its memory, its launches, or overhead. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vitbench.results.outcome import MEASURED, Ceilings
from vitbench.results.record import Record

Limit = Literal["compute", "bandwidth", "launches", "overhead"]
# A case that reaches this share of what the ceilings allow is bound by one of them.
MIN_ROOFLINE = 1 / 3
# Which of two ceilings is the nearer one, up to rounding.
_SAME = 0.999


@dataclass(frozen=True, slots=True)
class Bound:
    """What most of a case's time goes to.

    limit     compute or bandwidth: the ceiling that is nearest; launches: the device waits for the
              host; overhead: neither, so what the roofline does not count, such as small operators
              and maps that are written and read between them
    roofline  the time that the ceilings allow over the time it takes; None where it is not known
    """

    record: Record
    limit: Limit
    roofline: float | None


def bounds(records: Sequence[Record], ceilings: Ceilings | None) -> list[Bound]:
    """One for each measured row of which it is known, in their order."""
    found = []
    for record in records:
        if record["status"] == MEASURED and (limit := _limit(record, ceilings)) is not None:
            share = record["roofline_fraction"]
            found.append(Bound(record, limit, None if share is None else float(share)))
    return found


def _limit(record: Record, ceilings: Ceilings | None) -> Limit | None:
    if record["launch_bound"]:
        return "launches"
    if record["roofline_fraction"] is None:
        return None
    share = float(record["roofline_fraction"])
    if share < MIN_ROOFLINE:
        return "overhead"
    rates: Mapping[str, float] = {} if ceilings is None else ceilings.flops_rate
    peak = rates.get(str(record["computed_dtype"] or record["dtype"]))
    if peak is None or record["flops_rate"] is None:
        return None
    # MACs that a convolution may save are in flops_rate, and not in the roofline's share.
    of_compute = float(record["flops_rate"]) / peak * _counted_share(record)
    return "compute" if of_compute >= _SAME * share else "bandwidth"


def _counted_share(record: Record) -> float:
    """Of the MACs those that are counted on for the roofline."""
    macs, overlapping = (float(record[name] or 0) for name in ("macs", "macs_overlapping"))
    return max(0.0, macs - overlapping) / macs if macs else 0.0
