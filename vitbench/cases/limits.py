"""What a choice has to keep to. Pure data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What a case has to keep to; None: nothing.

    latency_s    of one call
    percentile   of the latency that is limited, 50 to 100; None: the median
    memory_bytes  peak memory of one call
    top1         least published accuracy on ImageNet, %
    macs         of one image
    params       of the module
    """

    latency_s: float | None = None
    percentile: float | None = None
    memory_bytes: float | None = None
    top1: float | None = None
    macs: float | None = None
    params: float | None = None
