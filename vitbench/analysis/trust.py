"""The trust grade of a figure: A to D, each step down with its reason in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitbench import devices

GRADES = "ABCD"


@dataclass(frozen=True, slots=True)
class Limit:
    """Above which values of a column the grade falls to B, C and D; None: never so low.

    scale and unit only serve the sentence.
    """

    column: str
    label: str
    b: float
    c: float | None
    d: float | None
    scale: float = 1.0
    unit: str = ""

    def fall(self, value: float) -> int:
        """How many grades below A."""
        steps = (self.b, self.c, self.d)
        return sum(1 for step in steps if step is not None and value > step)

    def sentence(self, value: float) -> str:
        limit = [self.b, self.c, self.d][self.fall(value) - 1]
        assert limit is not None
        return (
            f"{self.label} {value * self.scale:.3g}{self.unit} "
            f"(over {limit * self.scale:.3g}{self.unit})"
        )


LIMITS = (
    Limit("noise", "noise", 0.02, 0.05, 0.25, 100, "%"),
    Limit("round_spread", "medians of the rounds differ by", 0.05, 0.15, 1.0, 100, "%"),
    Limit("node_spread", "the machines' control case differs by", 0.05, 0.15, 1.0, 100, "%"),
    Limit("neighbour_cores", "other processes kept busy", 0.15, 0.5, None, 1, " cores"),
    # All threads of a parallel region wait for the one that has no core. A process that computes
    # beside as many threads as there are cores gets 0.6 to 1 of a core, on two of them.
    Limit(
        "contended_cores",
        "contention: threads and other processes exceed the cores by",
        0.15,
        0.4,
        None,
        1,
        " cores",
    ),
    Limit("steal_share", "share of the time that the hypervisor took:", 0.01, 0.05, 0.25, 100, "%"),
    Limit("cgroup_throttled_s", "the CPU quota stopped the process for", 0.0, 0.1, None, 1, " s"),
    Limit("gpu_idle_utilisation", "others used the GPU for", 0.02, 0.1, 0.5, 100, "% of the time"),
    Limit("gpu_processes", "other processes on the GPU:", 0, None, None),
    Limit("sm_clock_spread", "the GPU's clock moved by", 0.1, 0.3, None, 100, "%"),
    Limit(
        "throttled_share",
        "heat held the GPU's clock down for",
        0.01,
        0.1,
        None,
        100,
        "% of the time",
    ),
    Limit(
        "gpu_memory_drift_bytes", "others' GPU memory moved by", 2**26, 2**30, None, 2**-20, " MiB"
    ),
    Limit("roofline_fraction", "faster than the measured ceilings:", 1.05, 1.1, 1.2, 100, "%"),
)
MIN_CPU_SHARE = 0.9
BEHAVIOURS: Mapping[str, str] = {
    "random": "its output is random",
    "depends_on_batch": "its output depends on the batch",
    "keeps_state": "it keeps state from call to call",
}
# What disturbs the host, and an accelerator only where that waits for the host.
_OF_HOST = ("neighbour_cores", "contended_cores", "steal_share", "cgroup_throttled_s")
# What an accelerator's row is trusted by; unknown is not fine.
_OF_DEVICE = {"sm_clock_hz": "clock", "gpu_idle_utilisation": "neighbours"}


def grade(record: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The grade of a measured row and what lowered it."""
    fall, reasons = 0, []
    for limit in LIMITS:
        value = record.get(limit.column)
        if limit.column in _OF_HOST and not _needs_host(record):
            continue
        if value is not None and limit.fall(value):
            fall = max(fall, limit.fall(value))
            reasons.append(limit.sentence(value))
    for falls, reason in _other_reasons(record):
        fall = max(fall, falls)
        reasons.append(reason)
    return GRADES[fall], reasons


def _needs_host(record: Mapping[str, Any]) -> bool:
    """Whether the host's own work is in the latency: it computes, or an accelerator waits."""
    return _is_host(record) or record.get("launch_bound") is not False


def _is_host(record: Mapping[str, Any]) -> bool:
    device = record.get("device")
    return not device or devices.rules(str(device)).is_host


def _other_reasons(record: Mapping[str, Any]) -> list[tuple[int, str]]:
    reasons = []
    if record.get("rounds") == 1:
        reasons.append((1, "one round only: differences between processes are not seen"))
    if record.get("node") and record.get("node_spread") is None:
        reasons.append((1, "its machine was not compared with the others"))
    is_host = _is_host(record)
    unread = [label for name, label in _OF_DEVICE.items() if record.get(name) is None]
    if unread and not is_host:
        reasons.append((1, f"the device's {' and '.join(unread)} could not be read"))
    if record.get("throttle_reasons"):
        reasons.append((2, f"the GPU lowered its clock: {record['throttle_reasons']}"))
    if (behaviour := record.get("behaviour")) in BEHAVIOURS:
        reasons.append((1, BEHAVIOURS[str(behaviour)]))
    elif record.get("checked_against") and record.get("error_rms") is None:
        reasons.append((1, f"the output was checked against {record['checked_against']}"))
    if record.get("settings_changed"):
        reasons.append((2, f"it changed settings while timed: {record['settings_changed']}"))
    macs, counted = record.get("macs"), record.get("macs_counted")
    if macs is not None and counted is not None and macs != counted:
        reasons.append((2, f"the closed form gives {macs} MACs, counted are {counted}"))
    share = record.get("cpu_share")
    is_low = share is not None and share < MIN_CPU_SHARE
    if is_low and is_host:
        reasons.append((1, f"the process had the CPU for {share:.0%} of the time"))
    return reasons


def summary(grades: Mapping[str, int]) -> str:
    """`A 12, C 3` for a count of rows by grade."""
    return ", ".join(f"{grade} {grades[grade]}" for grade in GRADES if grades.get(grade))
