"""Variants measured side by side: fresh processes, and turns in an order that cancels drift."""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

from vitbench import devices
from vitbench.analysis import stats
from vitbench.cases.case import Case
from vitbench.devices import Allocator
from vitbench.instruments import timing

Row = Mapping[str, Any]
Reading = TypeVar("Reading")

RULE = timing.TimingRule(warmup_calls=2, warmup_s=0.1, warmup_agree=1.0, sample_s=0.01)
# A call of an emulated dtype takes seconds: one call warms up, and one is a sample.
RULE_EMULATED = dataclasses.replace(RULE, warmup_calls=1, warmup_s=0.0)
TURN_S = 0.08


def interleave(
    variants: Mapping[str, Callable[[], Reading]], cycles: int
) -> dict[str, list[Reading]]:
    """Two readings of each variant in each cycle: A B B A, then B A A B, and so on.

    A cycle goes through the variants and back, so that a steady drift of the machine cancels; each
    cycle begins with the next variant.
    """
    names = list(variants)
    readings: dict[str, list[Reading]] = {name: [] for name in names}
    for cycle in range(cycles):
        start = cycle % len(names)
        there = names[start:] + names[:start]
        for name in there + there[::-1]:
            readings[name].append(variants[name]())
    return readings


def in_new_process(
    function: Callable[..., Iterable[Row]], *arguments: Any, allocator: Allocator = "steady"
) -> list[Row]:
    """The rows that a function of a module yields, in a fresh process set up as a worker is."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_rows, function, arguments, allocator).result()


def _rows(
    function: Callable[..., Iterable[Row]], arguments: Sequence[Any], allocator: Allocator
) -> list[Row]:
    import torch

    from vitbench.instruments import host

    cpu = devices.connect("cpu")
    cpu.configure(host.usable_cores())
    cpu.set_allocator(allocator)
    with torch.inference_mode():
        return list(function(*arguments))


def emulated(dtype: str) -> bool:
    """Whether this CPU has no instructions for a dtype."""
    import torch

    from vitbench.subjects import wrappers

    return wrappers.is_emulated(getattr(torch, dtype))


class Ready:
    """A call that is warmed up. `sample` times it for TURN_S: seconds of one call."""

    def __init__(self, call: Callable[[], Any], *, slow: bool = False) -> None:
        self._call, self._clock = call, devices.connect("cpu").clock(cold=False)
        rule = RULE_EMULATED if slow else RULE
        self._timing = timing.warmed(call, self._clock, rule)

    def sample(self) -> list[float]:
        return timing.turn(self._call, self._clock, self._timing, TURN_S)


def ready(case: Case) -> tuple[Ready, int] | None:
    """A case, built and warmed up, and its peak memory in bytes; None where it is unsupported."""
    from vitbench.instruments import memory
    from vitbench.subjects import build as subjects

    try:
        subject = subjects.build(case, {})
    except subjects.Unsupported:
        return None
    peak_bytes = memory.measure(subject.device, subject.call, subject.module, (subject.x,)).peak
    return Ready(subject.call, slow=emulated(case.dtype)), peak_bytes


def compare(first: Ready, second: Ready, cycles: int) -> tuple[float, float, float]:
    """The ratio of the latencies, first over second, and both latencies in seconds.

    Medians over the cycles, in each of the lower quartiles: other processes only ever add time.
    """
    readings = interleave({"first": first.sample, "second": second.sample}, cycles)
    latencies = []
    for samples in readings.values():
        of_cycles = zip(samples[::2], samples[1::2], strict=True)
        latencies.append([stats.quantile(there + back, 0.25) for there, back in of_cycles])
    ratios = [a / b for a, b in zip(*latencies, strict=True)]
    return stats.median(ratios), stats.median(latencies[0]), stats.median(latencies[1])
