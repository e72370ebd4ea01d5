"""Energy of the CPUs: RAPL's counters, as Linux shows them under /sys/class/powercap.

https://docs.kernel.org/power/powercap/powercap.html
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitbench.devices import Call, Unreadable

ROOT = Path("/sys/class/powercap")
# Drivers of the same counters. Where a package is under both, the last is read.
_DRIVERS = ("intel-rapl-mmio", "intel-rapl")
# The counters are read so many times in a reading, and must have moved this often: they tick 1000
# times a second, and one that ticks seldom would say little of a short reading.
_READS = 40
_LEAST_MOVES = 20
# Of the reading's length, before it: clocks and power settle.
_WARMUP_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Zone:
    """What one counter counts.

    label   "package-0", or "package-0 dram", which its package does not contain
    folder  where its files are
    """

    label: str
    folder: Path

    def read(self, file: str) -> int:
        """A number of microjoules. Raises Unreadable."""
        try:
            return int((self.folder / file).read_text())
        except PermissionError:
            raise Unreadable("only root may read the energy counters (RAPL) here") from None
        except (OSError, ValueError) as error:
            name = type(error).__name__
            raise Unreadable(f"{file} of {self.label} cannot be read: {name}") from None


def zones() -> list[Zone]:
    """The counters of all packages and of the memory beside them.

    The cores and the graphics of a package are parts of it, and the zone of the whole platform
    contains all packages: they are left out, so that nothing counts twice.
    """
    found: dict[str, Zone] = {}
    for driver in _DRIVERS:
        for folder in sorted(ROOT.glob(f"{driver}:*")):
            label = _label(folder)
            if label is not None:
                found[label] = Zone(label, folder)
    return list(found.values())


def _label(folder: Path) -> str | None:
    """What a zone counts; None for what is part of another, or no CPU's."""
    name, parent = _name(folder), folder.with_name(folder.name.rpartition(":")[0])
    if folder.name.count(":") == 1:
        return name if name.startswith("package") else None
    return f"{_name(parent)} {name}" if name == "dram" else None


def _name(folder: Path) -> str:
    try:
        return (folder / "name").read_text().strip()
    except OSError:
        return ""


def reason_against(zones: Sequence[Zone]) -> str:
    """Why these counters cannot be read; "" where they can."""
    if not zones:
        return "this system shows no energy counters (RAPL)"
    try:
        Meter(zones)
    except Unreadable as reason:
        return str(reason)
    return ""


class Meter:
    """Adds up what the counters count from now on. Each must be read before it wraps around twice,
    which takes a minute and more."""

    def __init__(self, zones: Sequence[Zone]) -> None:
        """Raises Unreadable."""
        self._zones = zones
        self._ranges = [zone.read("max_energy_range_uj") for zone in zones]
        self._last = self._now()
        self.uj = 0
        self.moves = 0

    def _now(self) -> list[int]:
        return [zone.read("energy_uj") for zone in self._zones]

    def read(self) -> None:
        """Brings `uj` up to now. Raises Unreadable."""
        now = self._now()
        passed = [
            new - old if new >= old else new - old + wraps_at
            for wraps_at, old, new in zip(self._ranges, self._last, now, strict=True)
        ]
        self._last = now
        self.uj += sum(passed)
        self.moves += any(passed)


def energy_j(call: Call, seconds: float, zones: Sequence[Zone]) -> float:
    """Joules of one call, over so many seconds of calls and at least one, after a warm-up: all that
    the zones took meanwhile, whoever used it. Raises Unreadable.
    """
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < _WARMUP_SHARE * seconds:
        call()
        calls += 1
    per_call_s = (time.perf_counter() - start) / calls
    between_reads = max(1, round(seconds / _READS / per_call_s))
    meter, reads, start = Meter(zones), 0, time.perf_counter()
    while reads == 0 or time.perf_counter() - start < seconds:
        for _ in range(between_reads):
            call()
        meter.read()
        reads += 1
    if meter.moves < min(reads, _LEAST_MOVES):
        raise Unreadable(f"the energy counters moved {meter.moves} times in {seconds:g} s")
    return meter.uj / 1e6 / (reads * between_reads)
